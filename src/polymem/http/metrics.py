"""What the server counts about itself, in a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from polymem.domain.model import JobKind, JobState
from polymem.ports.queue import JobCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters and histograms of one server; labels never hold tenants, keys, ids or texts."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "polymem_http_requests",
            "Requests answered, by dialect, route template and status.",
            ("dialect", "method", "route", "status"),
            registry=self._registry,
        )
        self._latency = Histogram(
            "polymem_http_request_seconds",
            "Time from the request's head to the end of its answer.",
            ("dialect", "method", "route"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._recall = Histogram(
            "polymem_recall_seconds",
            "Time of one recall in the engine.",
            ("dialect",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._written = Counter(
            "polymem_memories_written",
            "Memories acknowledged as stored, by dialect.",
            ("dialect",),
            registry=self._registry,
        )
        self._jobs = Gauge("polymem_jobs", "Jobs by kind and state.", ("kind", "state"), registry=self._registry)
        self._degraded = Gauge(
            "polymem_degraded", "Parts of the server that serve in a degraded way.", registry=self._registry
        )
        self._serving = Gauge("polymem_serving", "1 when the server can serve.", registry=self._registry)

    def request_answered(self, dialect: str, method: str, route: str, status: int, seconds: float) -> None:
        """One more answered request."""
        self._requests.labels(dialect, method, route, str(status)).inc()
        self._latency.labels(dialect, method, route).observe(seconds)

    def recall_answered(self, dialect: str, seconds: float) -> None:
        """One more answered recall."""
        self._recall.labels(dialect).observe(seconds)

    def memories_written(self, dialect: str, count: int) -> None:
        """`count` more memories acknowledged."""
        self._written.labels(dialect).inc(count)

    def health_seen(self, *, is_serving: bool, degraded: int) -> None:
        """The gauges say how the server stands now."""
        self._serving.set(1 if is_serving else 0)
        self._degraded.set(degraded)

    def jobs_counted(self, counts: JobCounts) -> None:
        """The gauge says how many jobs stand where now; combinations without jobs are 0."""
        for kind in JobKind:
            for state in JobState:
                self._jobs.labels(kind.value, state.value).set(counts.by_kind_and_state.get((kind, state), 0))

    def exposition(self) -> bytes:
        """Everything counted, in the Prometheus text format."""
        return generate_latest(self._registry)
