"""Files and folders that appear whole or not at all, and how those of others are read."""
