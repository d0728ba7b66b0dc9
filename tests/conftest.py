"""What every test gets: fixed seeds, few threads, no telemetry, and the development data where it is present."""

import os
import random
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Set here, before any test module imports numpy, torch or onnxruntime: they read these once.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real weights and data for development, beside the checkout; tests that need them skip where they are absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the development data (../shared/data) is not on this machine")
    return folder


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Same random numbers in every run and in every order; torch only where a test already loaded it."""
    import numpy as np

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (libraries under test may draw from the legacy generator)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
