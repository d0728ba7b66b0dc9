"""A plan is code: what a signature vouches for may be loaded, and nothing else of a stranger's."""

import pytest
from bundles import make_bundle

from enginery.engines.tensorrt import trust
from enginery.errors import IntegrityError, UntrustedSourceError
from enginery.pipeline.bundle import verify_bundle
from enginery.pipeline.release.sign import sign_bundle


@pytest.fixture(autouse=True)
def own_records(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def stranger(keys, tmp_path):
    """A signed bundle for TensorRT-RTX that was not built by this user."""
    folder = make_bundle(tmp_path / "bundle", target="tensorrt-rtx")
    sign_bundle(folder, keys / "ours.pem")
    return folder


def test_digests_alone_vouch_for_nothing(stranger):
    verified = verify_bundle(stranger)
    with pytest.raises(UntrustedSourceError, match="not built by this user"):
        trust.require(stranger / verified.manifest.engine.folder / verified.manifest.engine.entry)


def test_a_signature_that_holds_vouches_for_the_plan(stranger, keys):
    verified = verify_bundle(stranger, public_key=keys / "ours.pub")
    trust.require(stranger / verified.manifest.engine.folder / verified.manifest.engine.entry)


def test_a_signature_that_does_not_hold_vouches_for_nothing(stranger, keys):
    with pytest.raises(IntegrityError):
        verify_bundle(stranger, public_key=keys / "theirs.pub")
    with pytest.raises(UntrustedSourceError):
        trust.require(stranger / "engine" / "model.onnx")
