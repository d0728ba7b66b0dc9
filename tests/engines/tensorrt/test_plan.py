import engine_models as models
import pytest

from enginery.engines import get_engine
from enginery.engines.tensorrt.plan import CAPABILITY_BITS, check_header, read_header
from enginery.errors import IntegrityError

trt = pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return build(tmp_path_factory)


def build(tmp_path_factory, **options):
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("engine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(source / "state"))
        model = models.save(models.linear(), source)
        return get_engine("tensorrt-rtx").build(model, folder, models.spec(**options)).path


def test_the_header_tells_size_version_and_devices(plan):
    header = read_header(plan)
    assert header.size == plan.stat().st_size
    assert header.version == trt.__version__
    assert set(header.capabilities) == {"8.0", "8.6", "8.9", "12.0", "12.1"}
    assert header.to_json()["mask"] == header.mask


@pytest.mark.parametrize("capability", [name for name in CAPABILITY_BITS if name != "7.5"])
def test_each_capability_has_its_bit(tmp_path_factory, capability):
    """7.5 is left out: fp32 matrix products do not compile for it."""
    header = read_header(build(tmp_path_factory, compute_capabilities=[capability]))
    assert header.capabilities == (capability,)
    assert header.mask == 1 << CAPABILITY_BITS[capability]


def test_a_check_names_the_other_version(plan):
    with pytest.raises(IntegrityError, match=r"was built by TensorRT-RTX [\d.]+; installed is 1\.2\.0"):
        check_header(plan, "1.2.0")


def test_a_check_names_the_devices(plan):
    assert check_header(plan, trt.__version__, "8.9").capabilities
    with pytest.raises(IntegrityError, match=r"for compute capability 8\.0, .*; this GPU has 9\.0"):
        check_header(plan, trt.__version__, "9.0")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "no TensorRT-RTX plan: it begins with nothing"),
        (lambda data: b"PK\x03\x04" + data[4:], "begins with 504b0304"),
        (lambda data: data[:40], "no TensorRT-RTX plan"),
        (lambda data: data[:-1], "the file has"),
        (lambda data: data + b"x", "the file has"),
        (lambda data: data[:28] + b"????" + data[32:], "second mark is 3f3f3f3f"),
    ],
)
def test_damage_is_named(plan, tmp_path, damage, message):
    path = tmp_path / "engine.plan"
    path.write_bytes(damage(plan.read_bytes()))
    with pytest.raises(IntegrityError, match=message):
        read_header(path)
