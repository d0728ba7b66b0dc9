import os
import subprocess
import sys

import pytest

from enginery.engines.cuda import devices, no_gpu_reason
from enginery.engines.cuda_memory import call, runtime
from enginery.errors import EngineError


def test_a_machine_has_devices_or_a_reason():
    assert bool(devices()) == (no_gpu_reason() is None)


@pytest.mark.skipif(bool(devices()), reason="this machine has a GPU")
def test_the_reason_names_the_driver():
    assert "driver" in str(no_gpu_reason())


@pytest.mark.skipif(bool(devices()), reason="this machine has a GPU")
def test_an_error_of_cuda_has_its_name_and_text():
    pytest.importorskip("cuda.bindings.runtime")
    with pytest.raises(EngineError, match=r"cudaGetDeviceCount failed: cudaError\w+ \(.*driver"):
        call(runtime().cudaGetDeviceCount)


@pytest.mark.gpu
def test_hidden_devices_are_not_used():
    code = "from enginery.engines.cuda import no_gpu_reason; print(no_gpu_reason())"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert "no" in run.stdout.lower()
    assert run.stdout.strip() != "None"
