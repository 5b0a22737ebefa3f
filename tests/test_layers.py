"""The floors of the house: imports go down only, the core is pure, and each library has one door.

Method: every file's imports are read from its syntax tree, those under TYPE_CHECKING and in functions
included (a type is knowledge, too), and `import_module` with a literal name. The rules are plain functions
over {module: imports}, so that they are shown to bite on small invented houses (the tests at the end).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

ROOT = Path(__file__).parent.parent
FLOORS = ("persistence", "actors", "transport", "outlast")  # from the ground up
OUTSIDE = ("tests", "bench", "examples")  # they may look in; nobody inside may look out

CORE = {f"actors.{name}" for name in ("ids", "jsonrpc", "messages", "state", "decide", "evolve", "turn")}
# What a pure function cannot need: waiting, time, chance, the world outside. They come in as values.
IMPURE = {
    "asyncio",
    "datetime",
    "io",
    "logging",
    "os",
    "pathlib",
    "random",
    "secrets",
    "signal",
    "socket",
    "structlog",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "trio",
    "uuid",
}
# The one file that imports a library, and translates its errors.
DOORS = {
    "cryptography": "persistence.sealing",
    "redis": "persistence.redis",
    "sqlite3": "persistence.sqlite_connection",
    "zstandard": "persistence.compression",
}


@attrs.frozen
class Import:
    """One imported module, as a dotted name."""

    name: str
    line: int
    types_only: bool = False

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


House = Mapping[str, tuple[Import, ...]]


def imports_of(source: str, module: str, *, is_package: bool = False) -> tuple[Import, ...]:
    """Give all imports of a source text."""
    return tuple(_walk(ast.parse(source), module, is_package, types_only=False))


def rising_imports(house: House) -> list[str]:
    """Find imports that go up, or out of the house."""
    found = []
    for module, imports in house.items():
        floor = FLOORS.index(module.partition(".")[0])
        forbidden = {*FLOORS[floor + 1 :], *OUTSIDE}
        found += [_said(module, entry) for entry in imports if entry.top in forbidden]
    return found


def impure_imports(house: House, core: set[str]) -> list[str]:
    """Find what is impure in the core's files, and in every file of ours that importing them runs."""
    return [
        _said(module, entry)
        for module in sorted(_reached(house, core))
        for entry in house[module]
        if entry.top in IMPURE and (module in core or not entry.types_only)
    ]


def side_doors(house: House) -> list[str]:
    """Find imports of a library by another file than its one door."""
    return [
        _said(module, entry)
        for module, imports in house.items()
        for entry in imports
        if entry.top in DOORS and module != DOORS[entry.top]
    ]


def _walk(node: ast.AST, module: str, is_package: bool, *, types_only: bool) -> Iterator[Import]:
    match node:
        case ast.Import(names=names):
            yield from (Import(alias.name, node.lineno, types_only) for alias in names)
        case ast.ImportFrom():
            base = _base(node, module, is_package)
            # `from actors import session` imports actors.session, if that is a file: the name says so either
            # way.
            yield from (Import(f"{base}.{alias.name}", node.lineno, types_only) for alias in node.names)
        case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module")):
            match node.args:
                case [ast.Constant(value=str(name)), *_]:
                    yield Import(name, node.lineno, types_only)
    for child in ast.iter_child_nodes(node):
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and child in node.body
        yield from _walk(child, module, is_package, types_only=types_only or guarded)


def _base(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    kept = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _reached(house: House, starts: set[str]) -> set[str]:
    """Give the modules of ours that run when these are imported: themselves, their packages, what they import."""
    reached: set[str] = set()
    waiting = list(starts)
    while waiting:
        module = waiting.pop()
        if module in reached or module not in house:
            continue
        reached.add(module)
        names = [module, *(entry.name for entry in house[module] if not entry.types_only)]
        for name in names:
            parts = name.split(".")
            waiting += [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return reached


def _said(module: str, entry: Import) -> str:
    return f"{module}:{entry.line} imports {entry.name}"


def _house(folders: tuple[str, ...]) -> dict[str, tuple[Import, ...]]:
    house = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            is_package = path.name == "__init__.py"
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(parts[:-1] if is_package else parts)
            house[module] = imports_of(path.read_text(), module, is_package=is_package)
    return house


def _invented(sources: Mapping[str, str]) -> dict[str, tuple[Import, ...]]:
    return {module: imports_of(source, module) for module, source in sources.items()}


def test_imports_go_down_only() -> None:
    house = _house(FLOORS)

    assert {module.partition(".")[0] for module in house} >= {"persistence", "actors", "transport"}
    assert rising_imports(house) == []


def test_core_is_pure() -> None:
    house = _house(FLOORS)

    assert {"actors.ids", "actors.jsonrpc"} <= house.keys()
    assert impure_imports(house, CORE) == []


def test_each_library_has_one_door() -> None:
    assert side_doors(_house(FLOORS)) == []


def test_examples_import_outlast_alone() -> None:
    rooms = set(FLOORS) - {"outlast"}
    found = [
        _said(module, entry)
        for module, imports in _house(("examples",)).items()
        for entry in imports
        if entry.top in rooms
    ]

    assert found == []


def test_an_import_that_goes_up_is_found() -> None:
    house = _invented(
        {
            "persistence.writer": "from actors.ids import SessionId",
            "actors.session": "import persistence.store\nimport transport.sse as sse",
            "actors.link": "if TYPE_CHECKING:\n    from transport import gateway",
            "transport.gateway": "def serve():\n    from outlast.settings import Settings",
            "outlast.cli": "from importlib import import_module\nimport_module('tests.fakes')",
            "transport.sse": "from . import guard\nfrom ..outlast import settings",
        }
    )

    assert rising_imports(house) == [
        "persistence.writer:1 imports actors.ids.SessionId",
        "actors.session:2 imports transport.sse",
        "actors.link:2 imports transport.gateway",
        "transport.gateway:2 imports outlast.settings.Settings",
        "outlast.cli:2 imports tests.fakes",
        "transport.sse:2 imports outlast.settings",
    ]


def test_an_impure_core_is_found() -> None:
    house = _invented(
        {
            "actors": "",
            "actors.decide": "import time\nfrom actors.helper import thing",
            "actors.helper": "import trio\nif TYPE_CHECKING:\n    import logging",
            "actors.state": "if TYPE_CHECKING:\n    import random",
            "actors.session": "import trio",
        }
    )

    assert impure_imports(house, {"actors.decide", "actors.state"}) == [
        "actors.decide:1 imports time",
        "actors.helper:1 imports trio",
        "actors.state:2 imports random",
    ]


def test_a_second_door_is_found() -> None:
    house = _invented(
        {"persistence.sqlite_connection": "import sqlite3", "persistence.writer": "from sqlite3 import Connection"}
    )

    assert side_doors(house) == ["persistence.writer:1 imports sqlite3.Connection"]
