"""Where a bundle may stand and where its by-products may not."""

import os
import stat

import numpy as np
import pytest
from bundles import make_bundle
from click.testing import CliRunner

from enginery.pipeline.bundle import session as sessions
from enginery.pipeline.bundle import verify_bundle
from enginery.pipeline.bundle.placing import placing
from enginery.pipeline.bundle.session import open_session
from enginery.pipeline.cli.main import cli
from enginery.pipeline.files import files_below, write_durably
from enginery.pipeline.npz import read_npz

INSIDE = {
    "run": ["run", "{bundle}", "--inputs", "{bundle}/golden/opt.inputs.npz", "--outputs", "{bundle}/golden/y.npz"],
    "report": ["report", "{bundle}", "--output", "{bundle}/page.html"],
    "sign": ["sign", "{bundle}", "--key", "{bundle}/../key.pem", "--write-public-key", "{bundle}/key.pub"],
    "oci": ["export", "oci", "{bundle}", "{bundle}/layout"],
    "ort": ["export", "ort", "{bundle}", "{bundle}"],
    "triton": ["export", "triton", "{bundle}", "{bundle}/golden"],
}


@pytest.mark.parametrize("command", INSIDE)
def test_nothing_is_written_into_a_bundle(bundle, tmp_path, command):
    """Through a link as well: one file more, and the bundle would no longer verify."""
    (tmp_path / "link").symlink_to(bundle)
    result = CliRunner().invoke(cli, [word.format(bundle=tmp_path / "link") for word in INSIDE[command]])
    assert result.exit_code == 2
    assert "inside the bundle" in result.stderr
    assert verify_bundle(bundle)


def test_a_path_with_spaces_and_letters_of_any_script(tmp_path):
    bundle = make_bundle(tmp_path / "mój model ✓" / "版本 1")
    with open_session(bundle, selftest=True) as session:
        assert session.describe()["provider"] == "CPUExecutionProvider"


def test_what_runs_is_what_was_verified_when_a_link_moves_on_in_between(tmp_path, bundle, monkeypatch):
    link, after = tmp_path / "current", make_bundle(tmp_path / "next", seed=1)
    link.symlink_to(bundle)

    def verify_and_move(path, **options):
        verified = verify_bundle(path, **options)
        link.unlink()
        link.symlink_to(after)
        return verified

    monkeypatch.setattr(sessions, "verify_bundle", verify_and_move)
    with open_session(link) as session:
        golden = read_npz(bundle / "golden" / "opt.outputs.npz")["y"]
        np.testing.assert_allclose(session.run(read_npz(bundle / "golden" / "opt.inputs.npz"))["y"], golden, rtol=1e-5)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_every_file_has_the_mode_that_the_umask_allows(tmp_path, mask):
    before = os.umask(mask)
    try:
        with placing(tmp_path / "bundle") as fresh:
            (fresh / "engine").mkdir()
            (fresh / "engine" / "model.onnx").write_bytes(b"x")
            write_durably(fresh / "SHA256SUMS", b"x")
    finally:
        os.umask(before)
    folders = [tmp_path / "bundle", tmp_path / "bundle" / "engine"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o777 & ~mask}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files_below(tmp_path / "bundle")} == {0o666 & ~mask}
