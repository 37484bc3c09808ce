"""Training and fine-tuning on a folder of images per class."""
