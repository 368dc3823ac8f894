"""What the input is: images, crops, shards or arrays → blocks of cells."""
