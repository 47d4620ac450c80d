"""A capacity model on paper: measured bytes and seconds, a small simulation of tenants, and the nodes they need.

`python -m bench.scale_model` prints the tables of docs/scaling.md. `python -m bench.scale_model measure --database URL`
fills an empty PostgreSQL database with made rows and prints what they take: the model's figures came from there.
"""
