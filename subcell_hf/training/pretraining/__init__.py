"""SubCell's own training, from shards."""
