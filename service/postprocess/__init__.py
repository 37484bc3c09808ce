"""Probabilities to what a client reads."""
