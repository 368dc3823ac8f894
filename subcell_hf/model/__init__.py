"""The island: the files that travel to the Hub with the weights."""
