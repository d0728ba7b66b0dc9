"""Killed at any moment, nothing is lost or half-written: the same command again ends in a right bundle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_recipes import Recorder, run_build, write_recipe

from enginery.errors import EngineryError
from enginery.pipeline import deliver
from enginery.pipeline.bundle import Bundle, placing, verify_bundle

STAGES = ("load", "reference", "export", "optimize", "calibrate", "quantize", "compile", "validate", "benchmark")
QUICK = ("export", "quantize")
"""Killed in every run of the tests; the others by `make test-all`."""

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was built without being killed."""
    folder = tmp_path_factory.mktemp("whole")
    return run_build(write_recipe(folder / "recipe"), folder / "build", precision="int8").bundle


def _die(recipe: Path, output: Path, stage: str, number: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SUPPORT / "killing.py"), str(recipe), str(output), stage, number]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def _same(one: Path, two: Path) -> bool:
    return (one / "manifest.json").read_bytes() == (two / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    "stage", [stage if stage in QUICK else pytest.param(stage, marks=pytest.mark.slow) for stage in STAGES]
)
def test_kill_nine_in_each_stage(stage: str, tmp_path: Path, whole: Path) -> None:
    recipe, output = write_recipe(tmp_path / "recipe"), tmp_path / "build"
    died = _die(recipe, output, stage, "SIGKILL")
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not list(output.glob("tiny/*/manifest.json"))
    events = Recorder()
    bundle = run_build(recipe, output, events, precision="int8").bundle
    verify_bundle(bundle)
    assert _same(bundle, whole)
    before = STAGES[: STAGES.index(stage)]
    assert all(any(kept.startswith(name) for kept in events.kept) for name in before if name != "reference")
    assert not list((output / ".store" / "work").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["calibrate", "benchmark"])
def test_control_c_in_a_stage(stage: str, tmp_path: Path, whole: Path) -> None:
    recipe, output = write_recipe(tmp_path / "recipe"), tmp_path / "build"
    died = _die(recipe, output, stage, "SIGINT")
    assert died.returncode != 0
    assert "KeyboardInterrupt" in died.stderr
    assert not list((output / ".store" / "work").iterdir())
    assert _same(run_build(recipe, output, precision="int8").bundle, whole)


@pytest.mark.slow
def test_two_builds_at_once_do_not_disturb_each_other(tmp_path: Path, whole: Path) -> None:
    recipe, output = write_recipe(tmp_path / "recipe"), tmp_path / "build"
    command = [sys.executable, str(SUPPORT / "killing.py"), str(recipe), str(output), "none", "SIGKILL"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
    bundle = output / "tiny" / "onnxruntime-cpu-int8"
    verify_bundle(bundle)
    assert _same(bundle, whole)


@pytest.mark.parametrize("moment", ["write_report", "write_sums", "verify_digests", "replace_folder"])
def test_a_death_while_the_bundle_is_packed_leaves_the_old_one(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, with an error that nobody catches: what a kill leaves, minus the sweeping up."""
    recipe, output = write_recipe(tmp_path / "recipe"), tmp_path / "build"
    old = run_build(recipe, output).bundle
    before = Bundle.open(old).manifest

    def die(*_: object) -> None:
        raise SystemExit(9)

    recipe.write_text(recipe.read_text() + "opset: 21\ndescription: another\n")
    with monkeypatch.context() as patch:
        owner = next(module for module in (deliver, deliver.bundles, placing) if hasattr(module, moment))
        patch.setattr(owner, moment, die)
        patch.setattr(placing.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            run_build(recipe, output)
    verify_bundle(old)
    assert Bundle.open(old).manifest == before
    result = run_build(recipe, output)
    verify_bundle(result.bundle)
    assert Bundle.open(result.bundle).manifest.recipe["description"] == "another"
    left = [path.name for path in result.bundle.parent.iterdir()]
    assert left == ["onnxruntime-cpu-fp32"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; skips where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=False)
    if made.returncode != 0:
        pytest.skip("this machine mounts no tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("where", ["store", "output"])
def test_a_full_disk_is_a_clear_word_and_room_is_all_it_needs(
    where: str, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    store, output = (small_disk, tmp_path / "build") if where == "store" else (tmp_path / "store", small_disk)
    monkeypatch.setenv("ENGINERY_STORE", str(store))
    with pytest.raises(EngineryError, match=r"No space left on device"):
        run_build(recipe, output)
    assert not list(output.rglob("manifest.json"))
    remount = ["mount", "-o", "remount,size=64m", str(small_disk)]
    subprocess.run(remount, check=True)
    verify_bundle(run_build(recipe, output).bundle)
