"""How well embeddings tell where a protein is."""
