"""What the parts cost and how right they are; each module runs by itself, `python -m benchmarks.NAME`."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command line does
