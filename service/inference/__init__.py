"""From encoded images to results: admit, decode, transform, batch. No HTTP type is in it."""
