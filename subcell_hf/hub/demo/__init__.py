"""A demo page of a model, on this machine or as a Space."""
