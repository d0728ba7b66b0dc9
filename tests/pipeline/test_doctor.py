"""`enginery doctor`: facts about the machine, and what to do where something is broken."""

import json

import pytest
from click.testing import CliRunner

from enginery.engines import targets
from enginery.pipeline import doctor
from enginery.pipeline.cli.main import cli
from enginery.pipeline.doctor import Status, examine


def test_every_target_is_judged(tmp_path):
    checks = {check.name: check for check in examine(tmp_path)}
    assert {f"target {target}" for target in targets()} <= set(checks)
    assert checks["target onnxruntime-cpu"].status is Status.OK
    for check in checks.values():
        assert check.words
        if check.name.startswith("target") and check.status is not Status.OK:
            assert check.remedy, f"{check.name} does not say what to do"


def test_two_onnxruntimes_clash(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_version", lambda name: "1.31.1" if name.startswith("onnxruntime") else None)
    (clash,) = [check for check in examine(tmp_path) if check.name == "onnxruntime"]
    assert clash.status is Status.FAULT
    assert "onnxruntime-gpu" in clash.words
    assert "pip uninstall" in clash.remedy
    assert CliRunner().invoke(cli, ["doctor"]).exit_code == 1


def test_a_disk_that_is_nearly_full(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "MINIMUM_FREE_BYTES", 1 << 62)
    (disk,) = [check for check in examine(tmp_path / "not" / "there") if check.name == "disk"]
    assert disk.status is Status.FAULT
    assert "ENGINERY_STORE" in disk.remedy


@pytest.mark.parametrize("answer", ["exit 9", "sleep 60"])
def test_a_broken_driver(monkeypatch, tmp_path, answer):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{answer}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(doctor, "DRIVER_SECONDS", 0.2)
    (gpu,) = [check for check in examine(tmp_path) if check.name == "gpu"]
    assert gpu.status is Status.FAULT


def test_a_gpu_is_named(monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'Big GPU, 9.0, 580.65, 81559 MiB'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (gpu,) = [check for check in examine(tmp_path) if check.name == "gpu"]
    assert (gpu.status, gpu.words) == (Status.OK, "Big GPU, 9.0, 580.65, 81559 MiB")


def test_json_is_what_the_text_says(tmp_path):
    found = json.loads(CliRunner().invoke(cli, ["doctor", "--json", "-o", str(tmp_path)]).stdout)
    text = CliRunner().invoke(cli, ["doctor", "-o", str(tmp_path)]).stdout
    assert len(found) > 8
    for check in found:
        assert check["name"] in text
