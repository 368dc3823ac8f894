"""How well embeddings tell treatments apart."""
