"""ONNX files, read without the `onnx` package: `wire.py` reads protobuf, `check.py` judges, `copy.py` copies them."""
