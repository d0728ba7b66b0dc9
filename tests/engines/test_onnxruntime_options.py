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
    options = parse(threads=3, optimization="basic", config={"a.b": True, "c": 4}, cpu_nodes=["Shape"])
    recorded = json.loads(json.dumps(options.to_json()))
    assert SessionOptions.parse(recorded, {}, "onnxruntime-cpu") == options
    assert recorded["config"] == {"a.b": "1", "c": "4"}


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
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        parse(**options)
