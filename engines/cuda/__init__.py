"""CUDA: which GPUs there are (`driver.py`), and memory, streams and captured graphs on one of them (`runtime.py`)."""
