"""Models, data and pages for the Hugging Face Hub as functions: folders in, repositories and servers out."""
