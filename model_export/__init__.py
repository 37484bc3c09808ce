"""Makes self-describing ONNX files from trained networks; its program is `resnet-export`."""
