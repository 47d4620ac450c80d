"""The consolidation laboratory: repeats are planted among real texts; what consolidation makes of them is counted."""
