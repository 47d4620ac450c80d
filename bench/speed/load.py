"""The real server measured on a filled directory."""

import asyncio
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

from bench.speed.client import Outcome, drive, request
from bench.speed.fill import KEYS_FILE
from bench.speed.server import ServerProcess, running
from bench.speed.texts import data_files, new_texts, pieces, queries, questions
from polymem.inference.embedder import LocalEmbedder

_MEMORIES = "/v1alpha2/mem9s/memories"
_WARM_UP = 20
_CLIENTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOrder:
    """What to measure, and where."""

    directory: Path
    data: Path | None
    is_in_place: bool
    recalls: int
    concurrent_recalls: int
    writes: int
    ingests: dict[int, int]
    threads: int
    seed: int


@dataclass(slots=True)
class _Report:
    """The rows of the table, printed as they come."""

    rows: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, value: str) -> None:
        self.rows.append((name, value))
        print(f"| {name} | {value} |", flush=True)


@dataclass(frozen=True, slots=True)
class _Bench:
    """A running server with what is asked of it."""

    server: ServerProcess
    clients: Executor
    keys: Iterator[str]
    queries: Iterator[str]
    texts: Iterator[str]
    report: _Report

    def recalls(self, count: int) -> list[bytes]:
        """Requests of recalls, no two alike, the tenants in turn."""
        asked = zip(islice(self.queries, count), self.keys, strict=False)
        return [request("GET", f"{_MEMORIES}?{urlencode({'q': text})}", key) for text, key in asked]

    def driven(self, requests: list[bytes], connections: int) -> tuple[Outcome, float]:
        """What the client measured, and the CPU seconds the server took; ends the program on a bad answer."""
        before = self.server.cpu_seconds()
        outcome = self.clients.submit(drive, self.server.port, requests, connections).result()
        if outcome.bad:
            sys.exit(f"a request was refused:\n{outcome.bad[0]}")
        return outcome, self.server.cpu_seconds() - before


def load(order: LoadOrder) -> None:
    """The table is printed."""
    files = data_files(order.data)
    source = pieces(files, most=8_000)
    told = json.loads((order.directory / KEYS_FILE).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(dir=order.directory.parent) as scratch:
        data_dir = order.directory if order.is_in_place else _copied(order.directory, Path(scratch) / "data")
        size = sum(path.stat().st_size for path in data_dir.rglob("*") if path.is_file())
        report = _Report()
        print(f"{told['memories']} memories, {len(told['keys'])} tenants\n\n| what | figure |\n|---|---|")
        with _client_process() as clients, running(data_dir) as server:
            bench = _Bench(
                server,
                clients,
                cycle(told["keys"]),
                queries(questions(files), source, seed=order.seed),
                new_texts(source, seed=order.seed),
                report,
            )
            _start(bench)
            _recall(bench, order)
            _write(bench, order)
            _ingest(bench, order)
            _memory(report, "at the end", server)
        asyncio.run(_encoder(report, list(islice(new_texts(source, seed=order.seed + 1), 1000)), order.threads))
        report.add("disk before the load", f"{size / 1e6:.0f} MB, {size / told['memories']:.0f} bytes a memory")


@contextmanager
def _client_process() -> Iterator[Executor]:
    """The client's process is there, so that its own start is not measured."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as clients:
        clients.submit(int).result()
        yield clients


def _copied(directory: Path, target: Path) -> Path:
    shutil.copytree(directory, target, copy_function=_copy, ignore=shutil.ignore_patterns("server.json", "*.lock"))
    return target


def _copy(source: str, target: str) -> None:
    subprocess.run(["cp", "--reflink=auto", "--preserve=mode", source, target], check=True)


def _start(bench: _Bench) -> None:
    server, report = bench.server, bench.report
    report.add("start to listening", f"{server.listening_after:.2f} s, CPU {server.cpu_seconds():.2f} s")
    _memory(report, "idle", server)
    outcome, _ = bench.driven(bench.recalls(1), 1)
    report.add(
        "first recall",
        f"{outcome.latencies[0] * 1000:.0f} ms; start to first answer"
        f" {server.listening_after + outcome.latencies[0]:.2f} s",
    )


def _recall(bench: _Bench, order: LoadOrder) -> None:
    bench.driven(bench.recalls(_WARM_UP), 1)
    if order.recalls:
        outcome, cpu = bench.driven(bench.recalls(order.recalls), 1)
        bench.report.add("recall, 1 client", _latency(outcome, cpu))
    if order.concurrent_recalls:
        outcome, cpu = bench.driven(bench.recalls(order.concurrent_recalls), _CLIENTS)
        bench.report.add(
            f"recall, {_CLIENTS} clients",
            f"{len(outcome.latencies) / outcome.seconds:.0f}/s, {_latency(outcome, cpu)}",
        )
    _memory(bench.report, "after recalls", bench.server)


def _write(bench: _Bench, order: LoadOrder) -> None:
    if not order.writes:
        return
    contents = zip(islice(bench.texts, order.writes + _WARM_UP), bench.keys, strict=False)
    bodies = [
        request("POST", _MEMORIES, key, json.dumps({"content": text, "sync": True}).encode()) for text, key in contents
    ]
    bench.driven(bodies[:_WARM_UP], 1)
    outcome, cpu = bench.driven(bodies[_WARM_UP:], 1)
    bench.report.add("single durable write, 1 client", _latency(outcome, cpu))


def _ingest(bench: _Bench, order: LoadOrder) -> None:
    for size, calls in ((size, calls) for size, calls in order.ingests.items() if calls):
        bodies = [
            request("POST", _MEMORIES, key, _conversation(list(islice(bench.texts, size)), number))
            for number, key in enumerate(islice(bench.keys, calls))
        ]
        outcome, cpu = bench.driven(bodies, 1)
        count = size * calls
        bench.report.add(
            f"ingest, {size} messages a call",
            f"{count / outcome.seconds:.0f}/s, {_of_cpu(count, cpu)}",
        )


def _conversation(texts: Sequence[str], number: int) -> bytes:
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return json.dumps({"session_id": f"load {len(texts)} {number}", "messages": messages, "sync": True}).encode()


async def _encoder(report: _Report, texts: list[str], threads: int) -> None:
    """The encoder alone on such texts, in this process."""
    embedder = LocalEmbedder.open(threads=threads)
    try:
        await embedder.embed_texts(texts[:100], max_chunks=1)
        cpu, started = time.process_time(), time.perf_counter()
        await embedder.embed_texts([f"user: {text}" for text in texts], max_chunks=1)
        used, seconds = time.process_time() - cpu, time.perf_counter() - started
    finally:
        await embedder.close()
    report.add(
        f"encoder alone, {threads} thread(s)",
        f"{len(texts) / seconds:.0f}/s, {_of_cpu(len(texts), used)}",
    )


def _of_cpu(count: int, cpu_seconds: float) -> str:
    return f"{count / cpu_seconds:.0f} a CPU second, {cpu_seconds / count * 1000:.2f} ms CPU each"


def _latency(outcome: Outcome, server_cpu: float) -> str:
    ordered = sorted(outcome.latencies)
    p95 = ordered[min(len(ordered) - 1, round(len(ordered) * 0.95))]
    count = len(ordered)
    return (
        f"p50 {median(ordered) * 1000:.1f} ms, p95 {p95 * 1000:.1f} ms, server CPU {server_cpu / count * 1000:.2f} ms"
        f" each, client CPU {outcome.client_cpu_seconds / count * 1000:.2f} ms each,"
        f" {outcome.bytes_read / count / 1000:.1f} kB each (n={count})"
    )


def _memory(report: _Report, when: str, server: ServerProcess) -> None:
    values = ", ".join(f"{name} {size:.0f} MB" for name, size in server.memory_mb().items())
    report.add(f"memory {when}", values)
