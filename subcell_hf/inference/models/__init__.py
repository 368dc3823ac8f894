"""Models by name, and the channels, pixel size and crop size that each requires."""
