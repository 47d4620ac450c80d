"""The HTTP edge: application, authentication, limits and the dialects."""
