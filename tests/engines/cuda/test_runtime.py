import pytest

from enginery.engines.cuda.driver import devices
from enginery.engines.cuda.runtime import call, runtime
from enginery.errors import EngineError


@pytest.mark.skipif(bool(devices()), reason="this machine has a GPU")
def test_an_error_of_cuda_has_its_name_and_text():
    pytest.importorskip("cuda.bindings.runtime")
    with pytest.raises(EngineError, match=r"cudaGetDeviceCount failed: cudaError\w+ \(.*driver"):
        call(runtime().cudaGetDeviceCount)
