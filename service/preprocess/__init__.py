"""From encoded images to a model's input pixels: decode, rotate, resize, crop."""
