"""Fine-tuning of a trained model on labelled crops."""
