"""Every test leaves `sys.path` and `sys.modules` as it found them."""

from collections.abc import Iterator

import pytest

from enginery.pipeline.source.callables import forget_projects


@pytest.fixture(autouse=True)
def _forgotten_projects() -> Iterator[None]:
    yield
    forget_projects()
