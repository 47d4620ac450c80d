"""The commands of the recall laboratory: `python -m bench.recall --help`."""

import os

# As the server does: a second thread of the linear algebra spins beside the first.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from bench.recall.command import main

if __name__ == "__main__":
    main()
