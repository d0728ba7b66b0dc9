import json

import pytest

from enginery.engines.base import DimRange
from enginery.engines.tensorrt.options import BuildOptions, refuse_unsupported, settings_of
from enginery.errors import EngineError, UsageError

DIMS = {"batch": DimRange(1, 8, 32), "seq": DimRange(1, 64, 256)}


def parse(**options):
    return BuildOptions.parse(options, "tensorrt")


def test_what_an_artifact_records_reads_back():
    options = parse(profiles=[{"seq": [1, 8, 16]}], workspace=1 << 30, compute_capabilities=["8.9", "12.0"])
    assert BuildOptions.parse(json.loads(json.dumps(options.to_json())), "tensorrt") == options


def test_a_timing_cache_is_no_part_of_what_was_built():
    assert parse(timing_cache="/somewhere/cache").to_json()["timing_cache"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fp16": True}, "Unknown option 'fp16' of tensorrt. Available: .*workspace"),
        ({"workspace": 0}, "`workspace` of tensorrt is 0; expected a number of bytes"),
        ({"workspace": "1GB"}, "a number of bytes"),
        ({"optimization_level": 6}, "an integer from 0 to 5"),
        ({"optimization_level": True}, "an integer from 0 to 5"),
        ({"sparsity": "yes"}, "`sparsity`.*true or false"),
        ({"verbosity": "all"}, "one of none, layer-names, detailed"),
        ({"hardware_compatibility": "hopper"}, "one of none, ampere+, same-compute-capability"),
        ({"device": -1}, "the index of a GPU"),
        ({"timing_cache": 3}, "the path of a file"),
        ({"compute_capabilities": ["9.0"]}, "some of 7.5, 8.0"),
        ({"compute_capabilities": 3}, "some of 7.5, 8.0"),
        ({"profiles": {"seq": [1, 2, 3]}}, "a list of"),
        ({"profiles": [{}]}, "a list of"),
        ({"profiles": [{"seq": [1, 2]}]}, "a list of"),
        ({"profiles": [{"seq": [1, 2, "x"]}]}, "a list of"),
        ({"profiles": [{"seq": [4, 2, 8]}]}, "min <= opt <= max"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UsageError, match=message.replace("+", r"\+")):
        parse(**options)


def test_yaml_reads_a_bare_capability_as_a_number():
    assert parse(compute_capabilities=8.9).compute_capabilities == ("8.9",)


def test_without_profiles_the_recipes_ranges_are_the_only_one():
    assert parse().ranges(DIMS) == (DIMS,)


def test_a_profile_keeps_the_ranges_that_it_leaves_out():
    (first, second) = parse(profiles=[{"seq": [1, 8, 16]}, {"batch": [1, 1, 1]}]).ranges(DIMS)
    assert first == {"batch": DIMS["batch"], "seq": DimRange(1, 8, 16)}
    assert second == {"batch": DimRange(1, 1, 1), "seq": DIMS["seq"]}


def test_profiles_cover_what_the_gates_run():
    sizes = [{"batch": 1, "seq": 1}, {"batch": 32, "seq": 256}]
    parse(profiles=[{"batch": [1, 1, 1]}, {"batch": [2, 8, 32]}]).check_coverage(DIMS, sizes, "tensorrt")
    parse().check_coverage(DIMS, sizes, "tensorrt")
    message = "No profile of tensorrt covers batch=32, seq=256, .*cover batch 1-1 .best 1., seq 1-256 .*; batch 2-16"
    with pytest.raises(UsageError, match=message):
        parse(profiles=[{"batch": [1, 1, 1]}, {"batch": [2, 8, 16]}]).check_coverage(DIMS, sizes, "tensorrt")


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"length": [1, 2, 3]}, r"names the dimension 'length'; declared are \['batch', 'seq'\]"),
        ({"seq": [1, 2, 512]}, "covers seq from 1 to 512; the recipe checks the model from 1 to 256"),
    ],
)
def test_a_profile_stays_inside_what_was_checked(profile, message):
    with pytest.raises(UsageError, match=message):
        parse(profiles=[profile]).ranges(DIMS)


@pytest.mark.parametrize(
    ("options", "rtx", "message"),
    [
        ({"timing_cache": "x"}, True, "does not support `timing_cache`: .*keeps no timing cache"),
        ({"hardware_compatibility": "ampere+"}, True, "use `compute_capabilities`"),
        ({"optimization_level": 5}, True, "does not support `optimization_level`"),
        ({"sparsity": True}, True, "does not support `sparsity`"),
        ({"compute_capabilities": ["8.9"]}, False, "only TensorRT-RTX builds for devices that are not present"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(options, rtx, message):
    with pytest.raises(EngineError, match=message):
        refuse_unsupported(parse(**options), rtx=rtx, target="tensorrt", version="1.7")


class Old:
    """A TensorRT module that lacks some members."""

    __version__ = "10.12.0"
    BuilderFlag = type("BuilderFlag", (), {"__members__": {"TF32": 0}})
    ProfilingVerbosity = type("ProfilingVerbosity", (), {"__members__": {"DETAILED": 2}})


@pytest.mark.parametrize(
    ("option", "flag"), [("weight_streaming", "WEIGHT_STREAMING"), ("strip_plan", "STRIP_PLAN"), ("refit", "REFIT")]
)
def test_what_a_version_lacks_is_an_error_that_names_it(option, flag):
    with pytest.raises(
        EngineError, match=f"tensorrt 10.12.0 does not support `{option}`: it has no BuilderFlag.{flag}"
    ):
        settings_of(Old, parse(**{option: True}), "tensorrt")


def test_tf32_is_off_unless_asked_for():
    assert settings_of(Old, parse(), "tensorrt").flags == {"TF32": False}
    assert settings_of(Old, parse(tf32=True), "tensorrt").flags == {"TF32": True}


def test_settings_have_tensorrts_own_names():
    trt = pytest.importorskip("tensorrt_rtx")
    options = parse(
        weight_streaming=True, workspace=1 << 20, optimization_level=2, compute_capabilities=["8.9"],
        hardware_compatibility="ampere+",
    )  # fmt: skip
    settings = settings_of(trt, options, "tensorrt")
    assert settings.flags == {"TF32": False, "WEIGHT_STREAMING": True}
    assert settings.enums == {
        "profiling_verbosity": ("ProfilingVerbosity", "DETAILED"),
        "hardware_compatibility_level": ("HardwareCompatibilityLevel", "AMPERE_PLUS"),
    }
    assert settings.numbers == {"builder_optimization_level": 2}
    assert settings.pools == {"WORKSPACE": 1 << 20}
    assert settings.capabilities == ["SM89"]
