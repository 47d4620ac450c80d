"""The pure part: words, text analysis, scoring; no I/O, clock or randomness."""
