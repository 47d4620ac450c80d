"""A laboratory for size: SQLite beside PostgreSQL, the same memories in both, every figure taken side by side.

    python -m bench.scale [--memories 100000] [--tenants 50] [--shapes one,many] [--questions 200] [--writes 200]
                          [--database-url URL] [--cache FILE] [--keep DIR]

The shape `one` has all memories in one tenant, `many` has them over `--tenants` tenants. The memories are those of
`bench.speed`: pieces of real turns, embedded once by the real model, and beyond the number of pieces mixtures of two.
Ids follow from a seed, so that both storages hold the very same rows. Both run in this process with one engine each
and share the model; what is measured of one is measured of the other right before or after, in random order.

Without `--database-url` a PostgreSQL of our own is started, set up as one would in production (`server.SETTINGS`,
told in the report), reached through a socket. With it the server at the URL is used: each shape in a database of its
own beside the named one, dropped afterwards. With `--keep` the data directory and, on a given server, the databases
stay, and a later run fills only what is not full.

Per shape: filling by commits of 50; VACUUM and ANALYZE as autovacuum would have done, and `Storage.tend`; the first
10 of each arm against a scan of all vectors and BM25 over all texts, made from the memories and not from a storage;
recall through the engine with the question's vectors made beforehand; each call that recall makes of a storage,
alone; recall with 8 at a time; single writes and deletes through the engine; bytes on disk; memory of a process that
serves one storage alone. A Markdown report goes to standard output, progress to the other.
"""
