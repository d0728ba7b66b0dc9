import subprocess
import sys

import pytest

from enginery.engines import Engine, get_engine, targets
from enginery.errors import UsageError


@pytest.mark.parametrize("target", targets())
def test_every_target_gives_its_engine(target):
    engine = get_engine(target)
    assert isinstance(engine, Engine)
    assert engine.target == target
    assert engine.policy in {"onnxruntime-cpu", "tensorrt", "openvino"}


def test_the_main_targets_are_there():
    assert {"onnxruntime-cpu", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx"} <= set(targets())


def test_an_unknown_target_is_refused_with_those_that_exist():
    with pytest.raises(UsageError, match=r"no target 'onnxruntime'.*onnxruntime-cpu.*tensorrt-rtx"):
        get_engine("onnxruntime")


def test_looking_up_engines_imports_no_runtime():
    code = (
        "import sys; from enginery.engines import get_engine, targets; [get_engine(t) for t in targets()];"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'tensorrt_rtx', 'openvino') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
