"""What is measured at the start: the layout of the machine, and how long batches take."""
