"""The commands of the consolidation laboratory: `python -m bench.consolidation --help`."""

import os

# As the server does: a second thread of the linear algebra spins beside the first.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from bench.consolidation.command import main

if __name__ == "__main__":
    main()
