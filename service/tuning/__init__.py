"""What is measured at start-up: the best parallelism here, and how long batches take."""
