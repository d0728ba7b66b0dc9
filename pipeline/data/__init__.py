"""Batches of inputs and labels from files or Python code, and the metrics that score outputs against labels."""

from enginery.pipeline.data.batch import Batch
from enginery.pipeline.data.dataset import DataSet
from enginery.pipeline.data.open import open_data

__all__ = ["Batch", "DataSet", "open_data"]
