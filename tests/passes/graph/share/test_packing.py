import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.passes.graph.share.packing import Packed, pack


def unpack(packed: Packed, size: int) -> np.ndarray:
    per_byte = 8 // packed.bits
    codes = (packed.codes[:, None] >> (np.arange(per_byte) * packed.bits)) & ((1 << packed.bits) - 1)
    values = packed.codebook[codes.reshape(-1)[: packed.count]]
    if packed.bitmap is None:
        return values
    found = np.zeros(size, packed.codebook.dtype)
    found[np.unpackbits(packed.bitmap, bitorder="little", count=size).astype(bool)] = values
    return found


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 256),
    st.integers(1, 300),
    st.floats(0, 1),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.data(),
)
def test_every_weight_comes_back_bit_for_bit(values, size, zeros, dtype, data):
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    weight = random.standard_normal(values).astype(dtype)[random.integers(0, values, size)]
    weight[random.random(size) < zeros] = 0
    packed = pack(weight, 256)
    assert packed is not None
    found = unpack(packed, size)
    assert found.dtype == weight.dtype
    assert found.tobytes() == weight.tobytes()


def test_negative_zero_and_nan_survive():
    weight = np.array([-0.0, 0.0, np.nan, 1.0] * 50, np.float32)
    packed = pack(weight, 256)
    assert packed is not None
    assert unpack(packed, weight.size).tobytes() == weight.tobytes()


@pytest.mark.parametrize(("values", "bits"), [(2, 1), (3, 2), (4, 2), (16, 4), (17, 8), (256, 8)])
def test_codes_take_as_few_bits_as_they_can(values, bits):
    packed = pack(np.arange(1, values + 1, dtype=np.float32).repeat(3), 256)
    assert packed is not None
    assert packed.bits == bits


def test_the_smaller_form_is_chosen():
    random = np.random.default_rng(0)
    weight = random.integers(1, 200, 4096).astype(np.float32)
    assert pack(weight, 256).bitmap is None
    weight[random.random(4096) < 0.05] = 0
    assert pack(weight, 256).bitmap is None, "a bitmap costs an eighth of the codes"
    weight[random.random(4096) < 0.7] = 0
    assert pack(weight, 256).bitmap is not None


def test_too_many_values_are_left():
    assert pack(np.arange(257, dtype=np.float32), 256) is None
    assert pack(np.arange(17, dtype=np.float32), 16) is None
