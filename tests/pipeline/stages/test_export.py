from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from enginery.engines.base import DimRange, TensorSpec
from enginery.engines.onnxruntime import open_model
from enginery.errors import StageError
from enginery.pipeline.comparison.reference import ShapesReference
from enginery.pipeline.source.opened import module_session
from enginery.pipeline.stages.export import FILE, OPSET, check_export, export_module
from enginery.pipeline.stages.reference import reference_shapes

X = TensorSpec("x", "float32", ("batch", "seq", 4))
IDS = TensorSpec("ids", "int64", ("batch", "seq"))
DIMS = {"batch": DimRange(1, 2, 4), "seq": DimRange(1, 6, 12)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 4)
        self.linear = nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        return {"embedding": self.linear(self.table(ids)).mean(1)}


class Cumulative(nn.Module):
    """A loop over time that tracing unrolls for the one length it sees."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x[:, 0])
        for step in x.unbind(1):
            total = total * 0.5 + step
        return total


def _reference(folder: Path, module: nn.Module, inputs: tuple[TensorSpec, ...], names: list[str]) -> ShapesReference:
    folder.mkdir()
    session = module_session(module.eval(), inputs, tuple(TensorSpec(name, "float32", ()) for name in names))
    reference_shapes(
        folder, run=session.run, inputs=inputs, dims=DIMS, shapes=(), declared=(), batches=None, seed=0,
        progress=lambda *_: None,
    )  # fmt: skip
    return ShapesReference.open(folder)


def _export(folder: Path, module: nn.Module, reference: ShapesReference, inputs: tuple[TensorSpec, ...]) -> Path:
    folder.mkdir()
    options: dict[str, Any] = {"inputs": inputs, "outputs": reference.outputs, "dims": DIMS, "opset": None}
    export_module(folder, module=module, example=reference.inputs_of(reference.case("odd")), **options)
    return folder / FILE


def test_names_dimensions_and_opset_are_as_declared(tmp_path: Path) -> None:
    # torch calls the result of an Embedding `embedding`: the same name as the output.
    module = Net().eval()
    reference = _reference(tmp_path / "reference", module, (IDS,), ["embedding"])
    model = onnx.load(_export(tmp_path / "export", module, reference, (IDS,)))
    onnx.checker.check_model(model, full_check=True)
    (value,), (result,) = model.graph.input, model.graph.output
    assert (value.name, [d.dim_param for d in value.type.tensor_type.shape.dim]) == ("ids", ["batch", "seq"])
    assert result.name == "embedding"
    assert [d.dim_param or d.dim_value for d in result.type.tensor_type.shape.dim] == ["batch", 3]
    assert model.opset_import[0].version == OPSET
    assert json.loads((tmp_path / "export" / "export.json").read_text())["opset"] == OPSET
    produced = [name for node in model.graph.node for name in node.output]
    assert len(set(produced)) == len(produced)


def test_every_shape_is_run_and_recorded(tmp_path: Path) -> None:
    module = Net().eval()
    reference = _reference(tmp_path / "reference", module, (IDS,), ["embedding"])
    _export(tmp_path / "export", module, reference, (IDS,))
    check_export(tmp_path / "export", reference, inputs=(IDS,), valid={}, open_model=open_model)
    found = json.loads((tmp_path / "export" / "check.json").read_text())
    assert {case["case"] for case in found} == {case.name for case in reference.cases}
    assert all(case["relative"] < 1e-5 for case in found)


def test_a_length_that_tracing_baked_in_is_refused(tmp_path: Path) -> None:
    module = Cumulative().eval()
    reference = _reference(tmp_path / "reference", module, (X,), ["output"])

    def export() -> None:
        _export(tmp_path / "export", module, reference, (X,))
        check_export(tmp_path / "export", reference, inputs=(X,), valid={}, open_model=open_model)

    with pytest.raises(StageError, match=r"(?s)export: .*baked in"):
        export()


def test_an_export_that_differs_at_one_shape_is_refused_with_the_case(tmp_path: Path) -> None:
    module = Net().eval()
    reference = _reference(tmp_path / "reference", module, (IDS,), ["embedding"])
    _export(tmp_path / "export", module, reference, (IDS,))
    path = reference.folder / "cases" / "max.outputs.npz"
    with np.load(path) as archive:
        arrays = {name: archive[name] * 1.01 for name in archive.files}
    np.savez(path, **{name: array.astype(np.float32) for name, array in arrays.items()})
    with pytest.raises(StageError, match=r"export: at max \(batch=4, seq=12\) .* 'embedding' is off by 0\.0"):
        check_export(tmp_path / "export", reference, inputs=(IDS,), valid={}, open_model=open_model)


class Poisoned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x.abs() - 100.0)


def test_answers_that_are_not_numbers_are_refused_with_a_reason_of_their_own(tmp_path: Path) -> None:
    module = Poisoned().eval()
    reference = _reference(tmp_path / "reference", module, (X,), ["output"])
    _export(tmp_path / "export", module, reference, (X,))
    with pytest.raises(StageError, match=r"NaN or infinite, from the original .* nothing can be compared"):
        check_export(tmp_path / "export", reference, inputs=(X,), valid={}, open_model=open_model)


def test_an_output_of_another_shape_is_refused(tmp_path: Path) -> None:
    module = Net().eval()
    reference = _reference(tmp_path / "reference", module, (IDS,), ["embedding"])
    _export(tmp_path / "export", module, reference, (IDS,))
    path = reference.folder / "cases" / "opt.outputs.npz"
    with np.load(path) as archive:
        arrays = {name: np.concatenate([archive[name]] * 2) for name in archive.files}
    np.savez(path, **arrays)
    with pytest.raises(StageError, match=r"at opt .* has shape \[2, 3\] where the original's has \[4, 3\]"):
        check_export(tmp_path / "export", reference, inputs=(IDS,), valid={}, open_model=open_model)


def test_what_cannot_be_exported_says_why_and_what_helps(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if bool(x.sum() > 0) else x.exp()

    module = Branches().eval()
    reference = _reference(tmp_path / "reference", module, (X,), ["output"])
    with pytest.raises(StageError, match=r"export: torch\.onnx cannot export .*test_export\.py, line .*sum"):
        _export(tmp_path / "export", module, reference, (X,))
    assert capfd.readouterr().err == "", "torch prints its half-made graph"


def test_what_is_off_where_it_was_traced_was_not_baked_in(tmp_path: Path) -> None:
    module = Net().eval()
    reference = _reference(tmp_path / "reference", module, (IDS,), ["embedding"])
    _export(tmp_path / "export", module, reference, (IDS,))
    for path in (reference.folder / "cases").glob("*.outputs.npz"):
        with np.load(path) as archive:
            arrays = {name: archive[name] * np.float32(1.01) for name in archive.files}
        np.savez(path, **arrays)
    with pytest.raises(StageError, match=r"export: at odd .* torch.onnx translated something wrongly"):
        check_export(tmp_path / "export", reference, inputs=(IDS,), valid={}, open_model=open_model)


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3).half()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.half()).float()


def test_a_model_that_computes_in_halves_is_told_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Halves().eval()
    reference = _reference(tmp_path / "reference", module, (X,), ["y"])
    _export(tmp_path / "export", module, reference, (X,))
    path = reference.folder / "cases" / "odd.outputs.npz"
    with np.load(path) as archive:
        arrays = {name: archive[name] + np.float32(0.01) for name in archive.files}
    np.savez(path, **arrays)
    with pytest.raises(StageError, match=r"computes in half precision, .* return `module\.float\(\)`"):
        check_export(tmp_path / "export", reference, inputs=(X,), valid={}, open_model=open_model)


class Counting(nn.Module):
    """A model that keeps something from one call to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.sum(1) * self.calls


def test_an_original_that_answers_differently_each_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"at min .* gives two answers to the same inputs: 'y' differs by 0\.\d+ of"):
        _reference(tmp_path / "reference", Counting(), (X,), ["y"])


class Heads(nn.Module):
    """Attention over heads that are views of one projection, as T5 and BEiT have it."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 8)
        self.bias = nn.Parameter(torch.zeros(1, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.project(x).view(x.shape[0], -1, 2, 4).transpose(1, 2)
        mask = self.bias.expand(-1, -1, x.shape[1], x.shape[1])
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)
        return mixed.transpose(1, 2).reshape(x.shape[0], -1, 8)


def test_attention_over_transposed_heads_is_exported(tmp_path: Path) -> None:
    module = Heads()
    reference = _reference(tmp_path / "reference", module, (X,), ["y"])
    _export(tmp_path / "export", module, reference, (X,))
    check_export(tmp_path / "export", reference, inputs=(X,), valid={}, open_model=open_model)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_the_root_of_a_failed_translation_is_named(tmp_path: Path) -> None:
    class Deep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            five = x[:, None, None]
            return nn.functional.scaled_dot_product_attention(five, five, five)

    reference = _reference(tmp_path / "reference", Deep(), (X,), ["y"])
    with pytest.raises(StageError, match=r"translating node .* \(only 4D query, key, and value are supported\)"):
        _export(tmp_path / "export", Deep(), reference, (X,))


def test_large_weights_go_into_a_file_that_all_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from enginery.pipeline.stages import export

    monkeypatch.setattr(export, "EXTERNAL_BYTES", 16)
    module = nn.Linear(4, 3)

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = module

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x)

    wide = Wide().eval()
    reference = _reference(tmp_path / "reference", wide, (X,), ["output"])
    path = _export(tmp_path / "export", wide, reference, (X,))
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in path.parent.iterdir())
    check_export(tmp_path / "export", reference, inputs=(X,), valid={}, open_model=open_model)
