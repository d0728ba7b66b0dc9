"""Where the original comes from: a factory, an ONNX file, the hub, timm, or a torch.export archive."""

from enginery.pipeline.source.load import load_original, source_digest
from enginery.pipeline.source.original import Original

__all__ = ["Original", "load_original", "source_digest"]
