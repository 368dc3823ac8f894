"""What simulated cells are made of: shapes, landmarks, proteins, optics."""
