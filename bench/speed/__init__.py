"""A laboratory for speed: a data directory of any size, and a real server measured on it.

    python -m bench.speed fill DIRECTORY --memories 100000 [--tenants 1] [--cache pieces.npz]
    python -m bench.speed load DIRECTORY [--recalls 400] [--concurrent-recalls 2000] ...

`fill` writes memories of some 200 characters straight through the storage port. Their texts are pieces of the turns of
the data sets, cut at ends of sentences or words; each distinct piece is embedded once with the real model, and kept in
the cache file. Beyond the number of pieces, a memory is made of the first part of one piece and the last part of
another: its token vectors are theirs, its embedding is the mean of theirs with a little noise, at unit length. Half of
the memories are plain insights, half are turns of sessions of 20; all lie in one space of each tenant. `fill` prints
what it did, and leaves the keys in `speed.json` and the first of them in `key`.

`load` copies the directory (or works in place with `--in-place`), starts the server on it as a user would, and drives
it from a process of its own over connections that are kept alive. No question is asked twice, so the cache of embedded
questions never answers. It prints a Markdown table: start to the first answer, recall with one client and with eight,
single durable writes, ingest of conversations with 100 and 1000 messages a call beside the rate of the encoder alone,
memory, and disk. Beside wall time it tells the CPU time of the server for each call, which does not move when the
machine is shared with other work.
"""
