import os
import subprocess
import sys

import pytest

from enginery.engines.cuda.driver import devices, no_gpu_reason


def test_a_machine_has_devices_or_a_reason():
    assert bool(devices()) == (no_gpu_reason() is None)


@pytest.mark.skipif(bool(devices()), reason="this machine has a GPU")
def test_the_reason_names_the_driver():
    assert "driver" in str(no_gpu_reason())


@pytest.mark.gpu
def test_hidden_devices_are_not_used():
    code = "from enginery.engines.cuda.driver import no_gpu_reason; print(no_gpu_reason())"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert "no" in run.stdout.lower()
    assert run.stdout.strip() != "None"
