"""What runs a batch: the `Engine` protocol and its ONNX Runtime implementation."""
