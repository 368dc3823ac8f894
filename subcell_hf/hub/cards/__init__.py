"""Model and data set cards, and the facts that fill them."""
