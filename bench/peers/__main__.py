"""The command line of the side-by-side; see the package."""

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.peers import __doc__ as package_doc
from bench.peers import environments, report
from bench.peers.corpus import Corpus, pieces, whole_turns
from bench.peers.environments import KINDS, NotInstalled, PeerKind
from bench.peers.measure import Measured, Setting, measure
from bench.peers.process import PeerEnded
from bench.recall.dataset import load
from bench.recall.files import data_files

_LARGE = 20_000
_MINUTES = 8.0


def compare(kinds: Sequence[PeerKind], corpus: Corpus, cache: Path, minutes: float) -> dict[str, Measured | str]:
    """The figures of each peer, or why there are none."""
    return {kind.name: _outcome(kind, corpus, cache, minutes) for kind in kinds}


def _outcome(kind: PeerKind, corpus: Corpus, cache: Path, minutes: float) -> Measured | str:
    started = time.perf_counter()
    log = cache / "logs" / f"{kind.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    try:
        setting = Setting(
            command=environments.command(kind, cache),
            variables=environments.variables(cache),
            weights=environments.weights(cache),
            scratch=cache / "scratch" / kind.name,
            log=log,
            minutes=minutes,
        )
        return measure(setting, corpus)
    except NotInstalled as problem:
        return f"not installed: {problem}"
    except PeerEnded as problem:
        return f"stopped: {problem}"
    finally:
        print(f"{corpus.name}, {kind.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)


def _main(arguments: argparse.Namespace) -> None:
    started = time.perf_counter()
    kinds = [kind for kind in KINDS if kind.name in arguments.peers]
    cache: Path = arguments.cache.resolve()
    data_sets = [load(path) for path in data_files(arguments.files)]
    results: list[dict[str, Measured | str]] = []
    for data_set in data_sets:
        corpus = whole_turns(data_set)
        results.append(compare(kinds, corpus, cache, arguments.minutes))
        print(report.table(corpus, results[-1]), report.comparisons(results[-1]), "", sep="\n\n", flush=True)
    if arguments.large:
        corpus = pieces(data_sets, arguments.large)
        results.append(compare([kind for kind in kinds if kind.is_run_large], corpus, cache, arguments.minutes))
        print(report.table(corpus, results[-1]), "", sep="\n\n", flush=True)
    print(f"{report.versions(results)}; {_machine()}; {datetime.now(UTC):%Y-%m-%d};")
    print(f"`python -m bench.peers {shlex.join(sys.argv[1:])}`, {(time.perf_counter() - started) / 60:.0f} minutes")


def _machine() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].split(": ", 1)[1] if models else platform.machine()
    return f"Python {platform.python_version()}, {len(os.sched_getaffinity(0))} cores, {model}"


def _arguments() -> argparse.Namespace:
    names = [kind.name for kind in KINDS]
    parser = argparse.ArgumentParser(description=(package_doc or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="data sets (default: both development sets)")
    parser.add_argument("--peers", nargs="+", choices=names, default=names, help="which peers (default: all)")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "polymem-peers", help="where all is kept"
    )
    parser.add_argument("--large", type=int, default=_LARGE, help="texts of the last table; 0: none")
    parser.add_argument("--minutes", type=float, default=_MINUTES, help="time of one peer for one table")
    return parser.parse_args()


if __name__ == "__main__":
    _main(_arguments())
