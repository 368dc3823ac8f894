"""Sources of cells: images, crops, shards or arrays, read in blocks."""
