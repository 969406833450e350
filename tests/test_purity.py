"""Engines and codecs decide from state, event and time alone: they import nothing that could look at the world."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORLD = {"asyncio", "socket", "time", "os", "random", "subprocess", "pathlib", "pyroute2", "scapy"}
SHELLS = {
    "mip6": {
        "dataplane",
        "system",
        "cli.py",
        "decode.py",
        "status.py",
        "revoke.py",
        "cleanup.py",
        "flowcommand.py",
        "replay.py",
        "explaincommand.py",
        "reloadcommand.py",
        "config.py",
        "configfile.py",
    },
    "homeagent": {"daemon.py", "operator.py", "store.py", "config.py", "__main__.py"},
    "mobilenode": {
        "daemon.py",
        "store.py",
        "config.py",
        "rules.py",
        "liverules.py",
        "volumestore.py",
        "linkcounts.py",
        "sampling.py",
        "operator.py",
        "__main__.py",
    },
}


def pure_modules() -> list[Path]:
    found = []
    for package, shells in SHELLS.items():
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.relative_to(ROOT / package).parts[0] not in shells:
                found.append(path)
    return found


def imports(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Top-level names of all imports, also inside functions; what only a type checker reads is left out."""
    within: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.Import):
        yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module.split(".")[0], node.lineno
    elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        within = node.orelse
    for inner in within:
        yield from imports(inner)


def impure(source: str) -> list[str]:
    return [f"line {line}: {name}" for name, line in imports(ast.parse(source)) if name in WORLD]


@pytest.mark.parametrize("path", pure_modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_pure_module_imports_nothing_of_the_world(path: Path) -> None:
    assert impure(path.read_text()) == []


def test_the_engines_and_codecs_are_looked_at() -> None:
    names = {str(path.relative_to(ROOT)) for path in pure_modules()}
    assert names >= {"mip6/wire.py", "mip6/forward.py", "homeagent/engine.py", "mobilenode/engine.py"}
    assert not names & {"mip6/config.py", "homeagent/daemon.py", "homeagent/store.py"}


@pytest.mark.parametrize(
    "source",
    [
        "import os.path",
        "from time import time",
        "def f():\n    import socket",
        "try:\n    import scapy.all\nfinally: 0",
    ],
)
def test_an_import_is_seen_wherever_it_stands(source: str) -> None:
    assert impure(source)


def test_an_import_for_types_only_is_allowed() -> None:
    assert not impure("if TYPE_CHECKING:\n    from random import Random")
    assert impure("if TYPE_CHECKING:\n    pass\nelse:\n    import random")
