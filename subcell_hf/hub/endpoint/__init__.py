"""Models behind HTTP: the handler that travels with the weights, and a small server around it."""
