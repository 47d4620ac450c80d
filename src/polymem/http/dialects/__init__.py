"""The published memory APIs, each a thin translator over the engine."""
