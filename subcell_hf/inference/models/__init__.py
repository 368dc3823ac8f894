"""Models by name, and what each is given."""
