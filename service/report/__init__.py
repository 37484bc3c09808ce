"""Reports: plots as SVG, and HTML pages that need no other file."""
