"""Runs `resnet-export` as `python -m model_export`."""

from model_export.cli import program

program()
