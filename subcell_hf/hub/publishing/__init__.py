"""Complete repositories of models, data and metrics, and their upload."""
