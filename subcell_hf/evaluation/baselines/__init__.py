"""What a benchmark is compared with: features and pixels of the same cells."""
