"""The command line of the capacity model."""

import argparse
import sys

from bench.scale_model.report import report


def main() -> None:
    """The tables are printed, or a database is filled and weighed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale_model", description=sys.modules["bench.scale_model"].__doc__
    )
    commands = parser.add_subparsers(dest="command")
    measuring = commands.add_parser("measure", help="fill an empty PostgreSQL database and print what memories take")
    measuring.add_argument("--database", required=True, help="URL of an empty database on a server with pgvector")
    measuring.add_argument("--profile", choices=("short", "long"), default="short")
    measuring.add_argument("--memories", type=int, default=50_000)
    measuring.add_argument("--tenants", type=int, default=20)
    measuring.add_argument("--graphs", type=int, nargs="*", default=[], help="chunks of a tenant whose graph is built")
    measuring.add_argument("--partial", type=int, nargs="*", default=[], help="graphs of others beside, ascending")
    measuring.add_argument("--undivided", action="store_true", help="chunks is one table, without parts")
    given = parser.parse_args()
    if given.command is None:
        print(report())
        return

    from bench.scale_model.measure import Order, measure  # noqa: PLC0415 - the tables need no database driver

    order = Order(
        profile=given.profile,
        memories=given.memories,
        tenants=given.tenants,
        graphs=given.graphs,
        partial=given.partial,
        is_undivided=given.undivided,
    )
    measure(given.database, order)


if __name__ == "__main__":
    main()
