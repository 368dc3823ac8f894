"""From microscope images to batches of single-cell crops."""
