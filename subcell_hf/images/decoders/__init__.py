"""From one image file to an array with its metadata."""
