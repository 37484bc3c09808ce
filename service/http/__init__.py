"""HTTP: what a request is, from its first byte to its answer."""
