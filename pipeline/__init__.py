"""The frame (Faust, settings, command line) and the pure core (audio, models, scoring)."""

import os

# onnxruntime's builds tell their maker of each model and run (its Privacy.md), unless this is said before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
