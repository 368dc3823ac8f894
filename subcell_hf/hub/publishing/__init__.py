"""Models, data and metrics as complete repositories, and their upload."""
