"""Search among the cells of an embedding table."""
