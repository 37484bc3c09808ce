"""From encoded images to results: admit, decode, transform, batch. Independent of HTTP."""
