import json

import pytest

from enginery.engines.onnxruntime_options import SessionOptions
from enginery.errors import UsageError


def parse(**options):
    return SessionOptions.parse(options, {"disabled_optimizers": ("SkipLayerNormFusion",)}, "onnxruntime-cpu")


def test_defaults_of_the_target_hold_until_they_are_overridden():
    assert parse().disabled_optimizers == ("SkipLayerNormFusion",)
    assert parse(disabled_optimizers=[]).disabled_optimizers == ()


def test_what_an_artifact_records_reads_back():
    given = {"threads": 3, "optimization": "basic", "config": {"a.b": True, "c": 4}, "cpu_nodes": ["Shape"]}
    given["provider"] = {"device_id": 1, "use_tf32": False}
    options = SessionOptions.parse(given, {}, "onnxruntime-cuda")
    recorded = json.loads(json.dumps(options.to_json()))
    assert SessionOptions.parse(recorded, {}, "onnxruntime-cuda") == options
    assert recorded["config"] == {"a.b": "1", "c": "4"}
    assert recorded["provider"] == {"device_id": "1", "use_tf32": "0"}


def test_what_an_artifact_for_the_cpu_records_reads_back():
    options = parse(threads=3)
    assert SessionOptions.parse(json.loads(json.dumps(options.to_json())), {}, "onnxruntime-cpu") == options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thread": 2}, "Unknown option 'thread' of onnxruntime-cpu. Available: .*threads"),
        ({"threads": -1}, "`threads` of onnxruntime-cpu is -1; expected 0"),
        ({"threads": True}, "`threads`"),
        ({"threads": "2"}, "`threads`"),
        ({"optimization": "max"}, "'max'; expected one of disabled, basic, extended, layout, all"),
        ({"spinning": "no"}, "`spinning`.*expected true or false"),
        ({"disabled_optimizers": "GeluFusion"}, "`disabled_optimizers`.*a list of names"),
        ({"config": ["x"]}, "`config`.*names and values"),
        ({"provider": {"device_id": 0}}, "`provider` is an option of onnxruntime-cuda and onnxruntime-tensorrt, not"),
        ({"cpu_nodes": ["Shape"]}, "`cpu_nodes` is an option of onnxruntime-cuda"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        parse(**options)
