"""The first and the last layers in float."""

from __future__ import annotations

from pathlib import Path

import pytest
from quantizable import conv_net, images, mlp_block, sequences, snr
from remedies import Patient

from enginery.errors import UsageError
from enginery.passes.quantize.plan import make_plan, names_of
from enginery.passes.quantize.remedies.ends import FloatEnds


def integer_nodes(patient: Patient) -> list[str]:
    from enginery.passes.graph.ir import load_graph

    context = patient.context
    plan = make_plan(load_graph(patient.model), context.policy, context.options, context.tensors)
    return [names_of(node)[0] for node, _ in plan.compute]


@pytest.mark.parametrize("policy", ["onnxruntime-cpu", "tensorrt"])
def test_one_layer_at_each_end_stays_float(tmp_path: Path, policy: str) -> None:
    patient = Patient(conv_net(tmp_path / "model.onnx"), images(), policy)
    before = integer_nodes(patient)
    patient.treat()
    plain = snr(patient.reference(), patient.outputs())
    (result,) = patient.treat(FloatEnds())
    assert integer_nodes(patient) == before[1:-1]
    assert result.details["float"] == ["node_stem", "node_logits"]
    assert snr(patient.reference(), patient.outputs()) > plain


def test_the_number_at_each_end_is_an_option(tmp_path: Path) -> None:
    patient = Patient(mlp_block(tmp_path / "model.onnx"), sequences())
    before = integer_nodes(patient)
    patient.treat(FloatEnds(first=0, last=2))
    assert integer_nodes(patient) == before[:-2]


def test_a_network_of_ends_alone_is_refused(tmp_path: Path) -> None:
    patient = Patient(mlp_block(tmp_path / "model.onnx"), sequences())
    (result,) = patient.treat(FloatEnds(first=2, last=2))
    assert result.changed == 0
    assert "none would be left" in str(result.refusals[0])
    assert len(integer_nodes(patient)) == 4


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(UsageError, match="expected numbers from 0 on"):
        FloatEnds(first=-1)
