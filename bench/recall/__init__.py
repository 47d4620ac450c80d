"""The recall laboratory: `python -m bench.recall engine|http|ablation|crossval|calibrate [FILE ...] [--keep DIR]`.

Data sets are histories of dated conversations with questions whose answering turns are known. Each command runs
the engine against them, or against a server of its own, and prints Markdown tables beside plain baselines.
`engine --storage postgres` asks the engine on PostgreSQL too, of a server of our own or of `--database-url`.
"""
