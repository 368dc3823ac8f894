"""Crops ↔ WebDataset shards: written, indexed, checked, and dealt into batches."""
