"""Numbered SQL migrations of the SQLite storage; a file never changes once it is released."""
