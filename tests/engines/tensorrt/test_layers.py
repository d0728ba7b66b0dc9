import json

import pytest

from enginery.engines.tensorrt.layers import read_inspector, read_layers

TENSOR = "{{ Name: {0}, Dimensions: [-1,16], Strides: [16,1], StrideOrder: [1,0], Datatype: {1}, Format: (Linear) }}"


def line(name, kind, inputs, constants, outputs, sources=""):
    def tensors(types):
        return ", ".join(TENSOR.format(f"t{i}", t) for i, t in enumerate(types))

    constants = f"Constants: [ {tensors(constants)}], " if constants else ""
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {tensors(inputs)}], {constants}Outputs: [ {tensors(outputs)}], "
        f"TacticName: __myl, StreamId: 0, Metadata: {sources}"
    )


def kinds(*lines):
    return {kernel.node: kernel.kind for kernel in read_layers(["noise", "Layers:\n" + "\n".join(lines)])}


def test_every_kind_is_told_by_the_data_types():
    assert kinds(
        line("int8 product", "gemm", ["Int8"], ["Int8", "Float"], ["Float"]),
        line("fp32 product", "gemm", ["Float"], ["Float"], ["Float"]),
        line("half product", "gemm", ["Half"], ["Half"], ["Half"]),
        line("int4 weights", "gemm", ["Half"], ["Int4", "Half"], ["Half"]),
        line("in", "kgen", ["Float"], [], ["Int8"]),
        line("out", "kgen", ["Int8"], [], ["Float"]),
        line("pool", "kgen", ["Int8"], [], ["Int8"]),
        line("softmax", "kgen", ["Float"], [], ["Float"]),
        line("mask", "kgen", ["Int64"], [], ["Bool"]),
        line("shape", "shape_call", [], [], []),
    ) == {
        "int8 product": "integer",
        "fp32 product": "float",
        "half product": "float",
        "int4 weights": "weight-only",
        "in": "quantize",
        "out": "quantize",
        "pool": "integer",
        "softmax": "float",
        "mask": "other",
        "shape": "other",
    }


def test_the_onnx_nodes_of_a_layer_are_named():
    sources = "[ONNX Layer: mm]\x1f[ONNX Layer: /encoder/dq]"
    (kernel,) = read_layers(["Layers:\n" + line("mm_0", "gemm", ["Int8"], [], ["Float"], sources)])
    assert kernel.sources == ("mm", "/encoder/dq")
    assert kernel.heavy


def test_no_listing_gives_no_layers():
    assert read_layers(["Engine generation completed"]) == ()


def layer(name, kind, inputs, outputs, **more):
    """One layer as the inspector of TensorRT 10 writes it (see NVIDIA/TensorRT issue 4020)."""

    def tensors(words):
        return [
            {"Name": "t", "Location": "Device", "Dimensions": [1, 3], "Format/Datatype": word, **more} for word in words
        ]

    return {"Name": name, "LayerType": kind, "Inputs": tensors(inputs), "Outputs": tensors(outputs), **more}


FP32, INT8, HALF = "Row major linear FP32", "Thirty-two wide channel vectorized row major Int8 format", "Half"


def inspected(*layers):
    return {kernel.node: kernel for kernel in read_inspector(json.dumps({"Layers": layers, "Bindings": ["x", "y"]}))}


def test_the_inspectors_words_for_data_types_are_understood():
    found = inspected(
        layer("reformat", "Reformat", [FP32], [INT8]),
        layer("conv", "CaskConvolution", [INT8], [INT8], Weights={"Type": "Int8", "Count": 9408}),
        layer("float conv", "CaskConvolution", [FP32], [FP32], Weights={"Type": "Float", "Count": 9408}),
        layer("weights", "CaskGemmConvolution", [HALF], [HALF], Weights={"Type": "Int4", "Count": 9408}),
        layer("pointwise", "PointWiseV2", ["Row major linear FP16 format"], ["Row major linear FP16 format"]),
        layer("indices", "Gather", ["Row major linear INT32"], ["Row major linear INT32"]),
    )
    assert {name: kernel.kind for name, kernel in found.items()} == {
        "reformat": "quantize",
        "conv": "integer",
        "float conv": "float",
        "weights": "weight-only",
        "pointwise": "float",
        "indices": "other",
    }
    assert [name for name, kernel in found.items() if kernel.heavy] == ["conv", "float conv", "weights"]


def test_the_inspector_names_the_onnx_nodes():
    metadata = "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]"
    (found,) = inspected(layer("a", "CaskConvolution", [INT8], [INT8], Metadata=metadata)).values()
    assert found.sources == ("conv1", "relu1")


@pytest.mark.parametrize(
    "table",
    [
        json.dumps({"Layers": ["conv1 + relu1", "fc"], "Bindings": []}),
        json.dumps({"Layers": [{"Name": "a", "LayerType": "kgen", "Inputs": ["x"], "Outputs": []}]}),
        json.dumps([]),
        "no JSON",
    ],
)
def test_a_table_that_tells_no_data_types_shows_no_layers(table):
    assert read_inspector(table) == ()
