"""What the parts cost and how right they are; each module runs by itself, `python -m benchmarks.NAME`."""
