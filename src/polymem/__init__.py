"""polymem: one memory engine, many memory APIs."""

__version__ = "0.1.0"
