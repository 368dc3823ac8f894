"""Published weights → folders that transformers loads."""
