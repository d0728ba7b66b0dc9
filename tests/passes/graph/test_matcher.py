import pytest
from graphs import parse

from enginery.passes.graph.matcher import Known, OneOf, Op, Scalar, Var, find
from enginery.passes.graph.symbolic import ShapeValues

TEXT = """g (float[N, 2] x, float[N, 2] z) => (float[N, 2] y) <float[2] w = {1, 2}, float two = {2}>
    { a = Mul(two, x) b = Add(a, z) c = Mul(b, w) y = Relu(c) }"""


def match(pattern, text=TEXT):
    return find(pattern, parse(text).outputs[0], ShapeValues())


CORE = Op("Mul", Op("Add", Op("Mul", Var("x"), Scalar(2)), Var("z")), Known("w"))


def test_a_match_binds_tensors_and_nodes():
    found = match(Op("Relu", CORE, name="root"))
    assert found is not None
    assert {name: tensor.name for name, tensor in found.tensors.items()} == {"x": "x", "z": "z", "w": "w"}
    assert [node.op for node in found.nodes] == ["Relu", "Mul", "Add", "Mul"]
    assert found.named["root"] is found.root
    assert found.values("w").tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "pattern",
    [
        Op("Tanh", CORE),
        Op("Relu", Op("Mul", Op("Add", Op("Mul", Var("x"), Scalar(3)), Var("z")), Known("w"))),
        Op("Relu", Op("Mul", Op("Add", Op("Mul", Var("x"), Scalar(2)), Var("x")), Known("w"))),
        Op("Relu", Op("Mul", Var("left"), Scalar())),
        Op("Relu", CORE, Var("second")),
        Op("Relu", CORE, attrs={"alpha": 1}),
    ],
)
def test_what_does_not_match(pattern):
    assert match(pattern) is None


def test_alternatives_are_tried_in_order():
    found = match(Op("Relu|Tanh", OneOf(Op("Exp", Var("x")), Op("Mul", Var("a"), Known("b")), Var("c"))))
    assert found is not None
    assert "a" in found
    assert "c" not in found


def test_subtraction_is_not_commutative():
    text = "g (float[N] x) => (float[N] y) <float one = {1}> { y = Sub(one, x) }"
    assert match(Op("Sub", Var("x"), Scalar(1)), text) is None
    assert match(Op("Sub", Scalar(1), Var("x")), text) is not None


@pytest.mark.parametrize(("shape", "matches"), [("", True), ("[1]", True), ("[1, 1]", True), ("[1, 1, 1]", False)])
@pytest.mark.parametrize("product", ["Mul(x, two)", "Mul(two, x)"])
def test_a_number_with_more_dimensions_than_its_operand_is_no_scalar(shape, matches, product):
    """The result has the number's dimensions: [1, N, 2] where x is [N, 2]."""
    text = f"g (float[N, 2] x) => (float y) <float{shape} two = {{2}}> {{ y = {product} }}"
    assert (match(Op("Mul", Var("x"), Scalar(2)), text) is not None) is matches


def test_a_number_with_more_dimensions_is_none_in_a_choice_either():
    text = "g (bool[N, 2] c, float[N, 2] x) => (float y) <float[1, 1, 1] low = {2}> { y = Where(c, x, low) }"
    assert match(Op("Where", Var("c"), Var("x"), Scalar(2)), text) is None
    assert match(Op("Where", Var("c"), Var("x"), Scalar(2)), text.replace("[1, 1, 1]", "[1, 1]")) is not None


def test_a_constant_that_callers_may_set_is_not_known():
    text = "g (float[N] x, float w) => (float[N] y) <float w = {1}> { y = Mul(x, w) }"
    assert match(Op("Mul", Var("x"), Scalar()), text) is None
    assert match(Op("Mul", Var("x"), Var("w")), text) is not None
