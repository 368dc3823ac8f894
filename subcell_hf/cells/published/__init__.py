"""The single cells that SubCell was trained on, read from its public bucket."""
