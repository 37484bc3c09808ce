"""What is measured at start-up: the best parallelism, and how long batches take."""
