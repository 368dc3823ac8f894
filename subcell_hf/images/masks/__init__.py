"""Label masks of fields: those inside of images, and whether every cell has a separate number."""
