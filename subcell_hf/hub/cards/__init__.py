"""Model and dataset cards, and the facts that fill them."""
