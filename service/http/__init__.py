"""HTTP: everything about a request from its first byte to its answer."""
