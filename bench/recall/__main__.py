"""The commands of the recall laboratory: `python -m bench.recall --help`."""

from bench.recall.command import main

if __name__ == "__main__":
    main()
