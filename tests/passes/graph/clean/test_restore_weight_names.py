import onnx
from graphs import apply, parse_model

from enginery.passes.graph.clean.restore_weight_names import RestoreWeightNames

TEXT = """g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] val_5 = {1, 2, 3, 4}, float[2, 2] val_6 = {1, 2, 3, 5},
    float[2, 2] kept = {1, 2, 3, 4}, float[2] bias = {1, 2}>
    { a = MatMul(x, val_5) b = Add(a, bias) c = MatMul(b, val_6) y = MatMul(c, kept) }"""


def with_modules(model: onnx.ModelProto, **modules: str) -> onnx.ModelProto:
    """Write the module paths of nodes (by first output) as torch's exporter does."""
    for node in model.graph.node:
        if node.output[0] in modules:
            path = modules[node.output[0]]
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', '{path}', '{node.output[0]}']")
    return model


def weights(done):
    return [node.inputs[1].name for node in done.graph.nodes if node.op == "MatMul"]


def test_weights_are_named_after_their_module(tmp_path):
    done = apply(RestoreWeightNames(), with_modules(parse_model(TEXT), a="layer.0.query", c="layer.0.key"), tmp_path)
    assert weights(done) == ["layer.0.query.weight", "layer.0.key.weight", "kept"]


def test_the_bias_names_the_module_where_the_exporter_does_not(tmp_path):
    model = parse_model(TEXT.replace("float[2] bias", "float[2] bias").replace("bias", "fc_bias"))
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("fc_bias", "fc.bias")
    for node in model.graph.node:
        node.input[:] = [name.replace("fc_bias", "fc.bias") for name in node.input]
    assert weights(apply(RestoreWeightNames(), model, tmp_path)) == ["fc.weight", "val_6", "kept"]


def test_two_weights_of_one_module_are_numbered(tmp_path):
    done = apply(RestoreWeightNames(), with_modules(parse_model(TEXT), a="fc", c="fc"), tmp_path)
    assert weights(done) == ["fc.weight", "fc.weight_1", "kept"]
