"""Files that are read over a network: downloaded whole, kept, and asked for again where a transfer fails."""
