"""From embeddings to answers: cells like these, and sets of locations with a guarantee."""
