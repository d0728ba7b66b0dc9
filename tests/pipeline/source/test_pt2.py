import pytest
import torch

from enginery.errors import SourceError, UntrustedSourceError
from enginery.pipeline.recipe import Source
from enginery.pipeline.source import load_original

SOURCE = Source(pt2="model.pt2")


def test_it_is_not_opened_without_trust(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"never read")
    with pytest.raises(UntrustedSourceError, match="--trust"):
        load_original(SOURCE, tmp_path, trust=False, seed=0)


def test_it_is_loaded_with_trust(tmp_path):
    linear = torch.nn.Linear(3, 2).eval()
    torch.export.save(torch.export.export(linear, (torch.zeros(1, 3),)), tmp_path / "model.pt2")
    original = load_original(SOURCE, tmp_path, trust=True, seed=0)
    x = torch.randn(1, 3)
    assert torch.equal(original.module(x), linear(x))
    assert original.provenance["trusted"] is True


def test_a_damaged_archive_is_told(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"no archive")
    with pytest.raises(SourceError, match=r"torch\.export\.load\('model\.pt2'\) raised"):
        load_original(SOURCE, tmp_path, trust=True, seed=0)
