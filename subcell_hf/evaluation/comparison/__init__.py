"""Several encoders on the same cells, side by side."""
