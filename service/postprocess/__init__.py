"""From probabilities to what a client reads."""
