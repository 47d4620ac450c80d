"""Papers and configuration say what the tree says."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ;]", requirement, maxsplit=1)[0]


def test_architecture_gives_a_reason_for_every_dependency() -> None:
    architecture = _text("ARCHITECTURE.md")
    missing = [
        name
        for name in map(_name, PYPROJECT["project"]["dependencies"])
        if not re.search(rf"^\| `{re.escape(name)}` \|", architecture, re.MULTILINE)
    ]
    assert missing == []


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-dev.txt"])
def test_locks_pin_exactly_with_hashes_and_hold_no_address(lock: str) -> None:
    text = _text(lock)
    blocks = re.split(r"\n(?=[a-zA-Z0-9])", text.strip())
    assert len(blocks) > 20
    assert [block.splitlines()[0] for block in blocks if "==" not in block or "--hash=sha256:" not in block] == []
    assert "://" not in text


def test_lock_holds_every_declared_dependency() -> None:
    locked = {line.split("==")[0].lower() for line in _text("requirements.txt").splitlines() if "==" in line}
    assert {_name(requirement).lower() for requirement in PYPROJECT["project"]["dependencies"]} <= locked


def test_makefile_has_every_command_the_papers_name() -> None:
    targets = set(re.findall(r"^([a-z][a-z -]*):", _text("Makefile"), re.MULTILINE))
    known = {word for target in targets for word in target.split()}
    named = {
        match
        for paper in [
            "README.md",
            "ARCHITECTURE.md",
            "CONTRIBUTING.md",
            *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")),
        ]
        for match in re.findall(r"`make ([a-z-]+)", _text(paper))
    }
    assert {"run", "test"} <= named
    assert named <= known


def test_every_decision_record_has_its_five_parts() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert records
    parts = ["## Context", "## Decision", "## Consequences", "## Rejected alternatives", "## How it is enforced"]
    assert {
        record.name: [part for part in parts if part not in record.read_text(encoding="utf-8")] for record in records
    } == {record.name: [] for record in records}


def test_links_between_papers_lead_somewhere() -> None:
    broken = [
        f"{paper.relative_to(ROOT)}: {target}"
        for paper in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", paper.read_text(encoding="utf-8"))
        if not (paper.parent / target).exists()
    ]
    assert broken == []


def test_changelog_names_the_version_of_the_package() -> None:
    version = re.search(r'__version__ = "([^"]+)"', _text("src/polymem/__init__.py"))
    assert version is not None
    assert f"## [{version[1]}]" in _text("CHANGELOG.md")
