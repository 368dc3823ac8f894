"""A page that shows what a model sees, on this machine or as a Space."""
