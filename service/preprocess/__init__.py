"""Encoded images to the pixels that a model takes: decode, turn, resize, crop."""
