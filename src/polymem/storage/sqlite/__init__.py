"""The embedded storage: one SQLite file, one writer, many readers."""
