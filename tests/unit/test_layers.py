"""The tree is the architecture: imports only go down.

A layer lists what it may import. A module that no layer claims fails the test, so that its place is decided by whoever adds it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Modules and packages (with everything below them) of one height, and the layers that they may import besides their own."""

    name: str
    members: tuple[str, ...]
    below: tuple[str, ...]


LAYERS = (
    Layer(
        name="foundation",
        members=("errors", "broker_url", "config", "clock", "deadlines", "fine_timer", "health", "loop", "refusals", "tasks"),
        below=(),
    ),
    Layer(name="wire", members=("wire",), below=("foundation",)),
    # Observing is asked for by routing and everything above it, so it may know no more than what a message is.
    Layer(name="observe", members=("observe",), below=("foundation", "wire")),
    Layer(name="transports", members=("transports",), below=("foundation", "wire")),
    Layer(name="routing", members=("routing",), below=("foundation", "wire", "transports", "observe")),
    Layer(
        name="hub",
        members=(
            "hub",
            "service",
            "contract",
            "arguments",
            "answers",
            "caller",
            "context",
            "contracts",
            "dead_letters",
            "workers",
            "detector",
            "dispatcher",
            "follower",
            "hedge",
            "identity",
            "inflow",
            "lane",
            "mailbox",
            "options",
            "observed",
            "ordered",
            "outflow",
            "pending",
            "presence",
            "proxy",
            "publisher",
            "received",
            "replies",
            "requests",
            "served",
            "subscriber",
            "values",
        ),
        below=("foundation", "wire", "transports", "observe", "routing"),
    ),
    # The start-up engine gets its participants, clock and journal from outside, which lets it run without a broker.
    Layer(name="startup", members=("startup",), below=("foundation",)),
    Layer(
        name="coordination",
        members=("coordination",),
        below=("foundation", "wire", "transports", "observe", "routing", "hub", "startup"),
    ),
    Layer(
        name="public",
        members=("", "testing"),
        below=("foundation", "wire", "transports", "observe", "routing", "hub", "startup", "coordination"),
    ),
    Layer(
        name="clients",
        members=("cli", "dashboard"),
        below=("foundation", "wire", "transports", "observe", "routing", "hub", "startup", "coordination", "public"),
    ),
)

# Libraries that only these modules may know. What they raise must not be seen elsewhere.
CONFINED = {
    "aio_pika": "fabric.transports.amqp",
    "aiormq": "fabric.transports.amqp",
    "pamqp": "fabric.transports.amqp",
    "typer": "fabric.cli",
    "rich": "fabric.cli",
}
# Wire is pure, and the start-up engine does no I/O: neither may know these.
FORBIDDEN = {"fabric.wire": {"asyncio", "socket", "threading"}, "fabric.startup": {"socket", "subprocess"}}


@dataclass(frozen=True, slots=True, order=True)
class Import:
    """One import statement: who imports what, and where it stands."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer.replace('.', '/')}:{self.line} imports {self.imported}"


def modules_below(root: Path, package: str) -> dict[str, Path]:
    """Every module of ``package`` by its dotted name."""
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str, path: Path, known: Mapping[str, Path]) -> Iterator[Import]:
    """All imports in ``path``: at the top, in functions, under TYPE_CHECKING, and import_module of a literal name."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                yield Import(module, submodule if submodule in known else source, node.lineno)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module", "__import__"):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str) and not name.value.startswith("."):
                yield Import(module, name.value, node.lineno)


def layer_of(module: str) -> Layer | None:
    """The layer that claims a module of fabric, or ``None``."""
    top = [*module.split("."), ""][1]
    return next((layer for layer in LAYERS if top in layer.members), None)


def inside(module: str, package: str) -> bool:
    """Whether ``module`` is ``package``, below it, or a part of it that was split off as ``package_x``."""
    return module == package or module.startswith((f"{package}.", f"{package}_"))


def violations(root: Path) -> list[str]:
    """What is wrong with the imports below ``root``, one line each."""
    known = {name: path for package in ("fabric", "services") for name, path in modules_below(root, package).items()}
    wrong = [
        f"{name}: assign a layer to it in {Path(__file__).name}"
        for name in known
        if inside(name, "fabric") and not layer_of(name)
    ]
    for module, path in known.items():
        for found in imports_of(module, path, known):
            wrong += [f"{found}: {why}" for why in objections(found)]
    return wrong


def objections(found: Import) -> Iterator[str]:
    """Why this import may not be."""
    importer, imported = found.importer, found.imported
    top = imported.split(".")[0]
    if inside(importer, "services"):
        if top in ("tests", "benchmarks"):
            yield "a service must run without the tests"
        return
    if top in ("services", "tests", "benchmarks"):
        yield "fabric is a library and knows nobody who uses it"
    elif top == "fabric":
        mine, its = layer_of(importer), layer_of(imported)
        if mine and its and its is not mine and its.name not in mine.below:
            yield f"{mine.name} must not know {its.name}"
    owner = CONFINED.get(top)
    if owner and not inside(importer, owner):
        yield f"only {owner} may use {top}"
    for package, names in FORBIDDEN.items():
        if inside(importer, package) and top in names:
            yield f"{package} does no I/O"


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_imports_only_go_down() -> None:
    """No module of fabric or of the services imports from a layer above its own, and each has a layer."""
    assert violations(ROOT) == []


def test_no_module_imports_itself_by_a_detour() -> None:
    """There is no circle of imports, also not one that is hidden in a function or under TYPE_CHECKING."""
    known = modules_below(ROOT, "fabric")
    graph: nx.DiGraph[str] = nx.DiGraph()
    for module, path in known.items():
        # The package names everything it exports, lazily; that is what it is for.
        if module != "fabric":
            targets = {found.imported for found in imports_of(module, path, known)} & set(known)
            graph.add_edges_from((module, target) for target in targets)
    circles = [" -> ".join([*circle, circle[0]]) for circle in nx.simple_cycles(graph)]
    assert circles == []


def test_every_layer_is_built_on_declared_ones() -> None:
    """The table itself has no circle: each layer names only layers that stand before it."""
    for height, layer in enumerate(LAYERS):
        assert set(layer.below) <= {lower.name for lower in LAYERS[:height]}, layer.name


def test_an_upward_import_is_found_wherever_it_hides(tmp_path: Path) -> None:
    """The walk sees imports in functions, under TYPE_CHECKING, relative ones, submodules of a package, and literal names."""
    write(
        tmp_path,
        {
            "fabric/__init__.py": "",
            "fabric/hub.py": "",
            "fabric/cli/__init__.py": "",
            "fabric/cli/main.py": "import typer\nfrom fabric import hub\n",
            "fabric/wire/__init__.py": "",
            "fabric/wire/codec.py": "def decode():\n    from fabric.hub import Hub\n",
            "fabric/wire/message.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import fabric.hub\n",
            "fabric/transports/__init__.py": "",
            "fabric/transports/base.py": "from .. import hub\n",
            "fabric/transports/memory.py": "from fabric import hub\n",
            "fabric/startup/__init__.py": "",
            "fabric/startup/graph.py": "import importlib\nimportlib.import_module('fabric.wire.codec')\n",
            "services/todo.py": "from fabric.cli import main\n",
        },
    )
    assert sorted(violations(tmp_path)) == [
        "fabric/startup/graph:2 imports fabric.wire.codec: startup must not know wire",
        "fabric/transports/base:1 imports fabric.hub: transports must not know hub",
        "fabric/transports/memory:1 imports fabric.hub: transports must not know hub",
        "fabric/wire/codec:2 imports fabric.hub: wire must not know hub",
        "fabric/wire/message:3 imports fabric.hub: wire must not know hub",
    ]


def test_what_only_some_may_import_is_found(tmp_path: Path) -> None:
    """Refused: aio-pika outside its transport, I/O in a pure layer, a library that knows its users, a module without a layer."""
    write(
        tmp_path,
        {
            "fabric/__init__.py": "",
            "fabric/gossip.py": "",
            "fabric/hub.py": "import aio_pika\nimport services.todo\n",
            "fabric/transports/amqp_errors.py": "import aio_pika\n",
            "fabric/wire/codec.py": "import asyncio\n",
            "services/todo.py": "from tests.brokers import url\n",
        },
    )
    assert sorted(violations(tmp_path)) == [
        "fabric.gossip: assign a layer to it in test_layers.py",
        "fabric/hub:1 imports aio_pika: only fabric.transports.amqp may use aio_pika",
        "fabric/hub:2 imports services.todo: fabric is a library and knows nobody who uses it",
        "fabric/wire/codec:1 imports asyncio: fabric.wire does no I/O",
        "services/todo:1 imports tests.brokers: a service must run without the tests",
    ]
