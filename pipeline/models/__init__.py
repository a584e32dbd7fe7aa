"""Speech models: where they come from, how they become ONNX, and one class for each."""
