from __future__ import annotations

from enginery.errors import MissingDependencyError


def missing(error: ImportError, extra: str, what: str) -> MissingDependencyError:
    """The error to raise where an optional package is absent: what needs it, and the extra that brings it."""
    package = error.name or str(error)
    return MissingDependencyError(f"{what} needs the package {package!r}. Install it: pip install 'enginery[{extra}]'.")
