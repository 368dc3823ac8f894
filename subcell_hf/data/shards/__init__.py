"""WebDataset shards of cells: how one is written, indexed, checked, read and dealt into batches."""
