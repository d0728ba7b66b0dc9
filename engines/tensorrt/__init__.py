"""TensorRT and TensorRT-RTX: one engine for both (`engine.py`), which takes the Python module as a parameter.

`options.py` is what a recipe may say; `process.py` starts `builder.py`, which parses and builds in a process of its
own; `log.py` and `layers.py` read what the builder says; `plan.py` and `trust.py` judge a plan before it is loaded;
`session.py` runs it. Importing this package imports none of them: the builder's process must start fast.
"""
