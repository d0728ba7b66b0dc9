"""`enginery validate`: a finished bundle is run again where it is to run, and what its build deferred is completed."""

from enginery.pipeline.revalidation.revalidate import GOLDEN_GATES, Revalidation, revalidate

__all__ = ["GOLDEN_GATES", "Revalidation", "revalidate"]
