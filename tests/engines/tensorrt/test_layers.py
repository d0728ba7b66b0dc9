from enginery.engines.tensorrt.layers import read_layers

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
