"""What the parts cost and how right they are; each module runs by itself, `python -m benchmarks.NAME`."""

import os

import pipeline  # noqa: F401 - what it says to onnxruntime must be said before that is loaded

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line does
