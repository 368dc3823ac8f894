"""From published weights to folders that transformers loads."""
