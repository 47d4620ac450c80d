"""The recall laboratory: data sets, metrics, baselines, and the two ways to run the engine against them."""
