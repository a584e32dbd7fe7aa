"""The machine that the figures are from."""

import os
import platform
from pathlib import Path


def cpu_model() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def describe() -> str:
    """One line about the machine."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{cpu_model()}, {os.cpu_count()} cores, Python {platform.python_version()}, load average {load}"
