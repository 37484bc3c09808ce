"""Reports: SVG plots and self-contained HTML pages."""
