"""What callstream costs, measured; each module is a program."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in the command line; one thread is what is measured
