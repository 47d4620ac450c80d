"""The numbered steps of the schema, applied in order, forward only."""
