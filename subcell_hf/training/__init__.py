"""Training: recipes to arguments, the trainer, its checkpoints and what they cost."""
