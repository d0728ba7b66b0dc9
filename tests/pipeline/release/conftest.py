import shutil
from pathlib import Path

import pytest
from bundles import make_bundle


@pytest.fixture(scope="session")
def pristine(tmp_path_factory) -> Path:
    """An unsigned bundle; not to be changed."""
    return make_bundle(tmp_path_factory.mktemp("pristine") / "bundle")


@pytest.fixture(scope="session")
def pristine_signed(pristine, keys, tmp_path_factory) -> Path:
    """The same bundle, signed with `ours`; not to be changed."""
    from enginery.pipeline.release.sign import sign_bundle

    copy = tmp_path_factory.mktemp("signed") / "bundle"
    shutil.copytree(pristine, copy)
    sign_bundle(copy, keys / "ours.pem")
    return copy


@pytest.fixture
def bundle(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))


@pytest.fixture
def signed(pristine_signed, tmp_path) -> Path:
    return Path(shutil.copytree(pristine_signed, tmp_path / "signed"))
