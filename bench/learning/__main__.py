"""The command of the learning bench: `python -m bench.learning --help`."""

import os

# As the server does: a second thread of the linear algebra spins beside the first.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from bench.learning.command import main

if __name__ == "__main__":
    main()
