"""Models behind HTTP: the handler that is uploaded with the weights, and a small server."""
