"""Conversion of published checkpoints, and what goes to and comes from the Hugging Face Hub."""
