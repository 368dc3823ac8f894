"""The embedding table: schema, formats, aggregation, and the pictures that belong to it."""
