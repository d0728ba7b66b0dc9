"""Enginery turns a trained model into an inference engine that is shown to answer like the original."""

from enginery._version import __version__

__all__ = ["__version__"]
