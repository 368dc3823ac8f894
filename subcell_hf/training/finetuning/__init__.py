"""A trained SubCell goes on with labels of your own."""
