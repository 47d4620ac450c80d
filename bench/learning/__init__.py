"""What learning is worth: feedback on some questions, measured on their rewordings, on follow-ups, and on others.

python -m bench.learning --lme ../shared/data/longmemeval-pooled.dev.json
"""
