"""Makes self-describing ONNX files from trained networks; `resnet-export` is its program."""
