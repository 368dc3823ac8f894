"""What a person sees of a run: terminal, page, trackers."""
