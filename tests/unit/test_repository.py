"""What the files around the code promise: locks that agree, a Makefile that says what is missing, pages whose links hold."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import fabric
from fabric.cli.exits import ExitCode
from fabric.cli.main import COMMANDS
from fabric.config import Settings
from fabric.coordination.fleet import parse_fleet
from fabric.coordination.fleetfile import FleetEntry, GateEntry, RetryEntry, ServiceEntry, StageEntry
from fabric.routing.balancing import STRATEGIES

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PIN = r"^([a-z0-9][a-z0-9._-]*)(?:\[[^\]]*\])?==(\S+)( ; [^\\]+)? \\\n"
REQUIREMENT = re.compile(PIN + r"((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.M)


def normal(name: str) -> str:
    """A package name as the index compares it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", name)[0]).lower()


def locked(name: str) -> dict[tuple[str, str], frozenset[str]]:
    """Hashes by package and version. Fails if the file has a line that is not a pinned requirement with hashes."""
    text = (ROOT / name).read_text()
    found = {(normal(match[1]), match[2]): frozenset(re.findall(r"sha256:\w+", match[4])) for match in REQUIREMENT.finditer(text)}
    assert REQUIREMENT.sub("", text).strip() == "", f"{name} has lines without a pin or a hash"
    return found


def declared() -> dict[str, list[str]]:
    """The requirements in pyproject.toml by where they stand."""
    project = PROJECT["project"]
    groups = {
        f"group {name}": [entry for entry in entries if isinstance(entry, str)]
        for name, entries in PROJECT["dependency-groups"].items()
    }
    extras = {f"extra {name}": entries for name, entries in project["optional-dependencies"].items()}
    return {"dependencies": project["dependencies"], **extras, **groups}


def test_everything_declared_is_locked() -> None:
    """Each requirement in pyproject.toml is pinned with hashes in requirements.lock; the measured peers in their own."""
    names = {name for name, _ in locked("requirements.lock")}
    peers = {name for name, _ in locked("requirements-bench.lock")}
    missing = {
        requirement
        for where, entries in declared().items()
        for requirement in entries
        if normal(requirement) not in (peers if where == "group bench" else names)
    }
    assert missing == set()


def test_what_is_measured_is_what_was_tested() -> None:
    """requirements-bench.lock has the versions of requirements.lock for everything that is in both."""
    everything, bench = dict(locked("requirements.lock").keys()), dict(locked("requirements-bench.lock").keys())
    assert {name: bench[name] for name in bench.keys() & everything.keys()} == {
        name: everything[name] for name in bench.keys() & everything.keys()
    }


def test_the_image_runs_what_was_tested() -> None:
    """requirements-run.lock has the versions and hashes of requirements.lock, all that the package needs, and no tools."""
    everything, image = locked("requirements.lock"), locked("requirements-run.lock")
    assert image.items() <= everything.items()
    names = {name for name, _ in image}
    tools = ("group compile", "group dev", "group bench")
    needed = {normal(entry) for where, entries in declared().items() if where not in tools for entry in entries}
    assert needed <= names
    assert not names & {"pytest", "mypy", "ruff", "testcontainers"}


@pytest.mark.parametrize(
    "name",
    [
        "requirements.lock",
        "requirements-run.lock",
        "requirements-bench.lock",
        "pyproject.toml",
        "Makefile",
        "Dockerfile",
        "docker-compose.yml",
        ".pre-commit-config.yaml",
        ".ci/run",
    ],
)
def test_nothing_that_installs_names_a_host(name: str) -> None:
    """Where packages come from is the machine's business: no file that takes part in an installation names an index or a host."""
    text = (ROOT / name).read_text().replace("--no-emit-index-url", "").replace("http://127.0.0.1", "")
    assert not re.search(r"https?://|index-url|find-links|trusted-host", text)


def test_each_dependency_has_its_reason() -> None:
    """docs/dependencies.md has a row for every requirement, and none for what is gone."""
    page = (ROOT / "docs/dependencies.md").read_text()
    explained = {normal(name) for row in re.findall(r"^\| (`.*?`) \|", page, re.M) for name in re.findall(r"`([^`]+)`", row)}
    assert explained == {normal(entry) for entries in declared().values() for entry in entries}


def test_the_versions_agree() -> None:
    """The package says the version that it is distributed as."""
    assert PROJECT["project"]["version"] == fabric.__version__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link in the documentation names a file that is there, and a heading in it."""
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} is not there"
        if anchor:
            headings = re.findall(r"^#+ +(.+)$", linked.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_tests_are_there(page: Path) -> None:
    """A test that a page names by its place below `tests/` exists; each row of a table with a column "shown by" names one."""
    text = page.read_text()
    for file, name in re.findall(r"`([\w/]+\.py)::(\w+)`", text):
        assert re.search(rf"^(async )?def {name}\(", (ROOT / "tests" / file).read_text(), re.M), f"{file}::{name} is not there"
    for table in re.findall(r"^\|.*shown by \|\n\|[-|: ]+\|\n((?:\|.*\n)+)", text, re.M):
        for row in table.splitlines():
            assert re.search(r"`[\w/]+\.py::\w+` \|$", row), f"nothing shows this: {row}"


def test_every_page_is_reachable() -> None:
    """Following links from the README leads to every page of the documentation."""
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = re.findall(r"\]\((?!https?:|mailto:)([^)#\s]+)", page.read_text())
        todo += [(page.parent / link).resolve() for link in links]
    assert set(PAGES) <= seen


def test_documented_commands_exist() -> None:
    """A `make` target that a page or the help names is in the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    targets = {name for line in re.findall(r"^\.PHONY: (.+)$", makefile, re.M) for name in line.split()}
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.M)) | set(re.findall(r"echo 'make ([a-z][a-z-]*)", makefile))
    assert named <= targets
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def make(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make in a directory that has the Makefile and its prerequisites, and nothing else of the project."""
    shutil.copy(ROOT / "Makefile", directory)
    (directory / "requirements.lock").touch()
    (directory / "pyproject.toml").touch()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=directory, env={**clean, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def test_an_interpreter_that_is_too_old_is_named(tmp_path: Path) -> None:
    """make says which version it found, which it needs, and how to name another."""
    old = tmp_path / "python-old"
    program(old, 'case $1 in -V) echo "Python 3.9.2" ;; *) exit 1 ;; esac')
    finished = make(tmp_path, "test", f"PYTHON={old}")
    assert finished.returncode != 0
    assert "needs Python 3.11 or newer" in finished.stderr
    assert "Python 3.9.2" in finished.stderr
    assert "make test PYTHON=" in finished.stderr


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    """make says that the interpreter is not installed rather than failing at the first command with it."""
    finished = make(tmp_path, "demo", "PYTHON=python-that-nobody-has")
    assert finished.returncode != 0
    assert "python-that-nobody-has is not installed" in finished.stderr


def test_an_interpreter_without_venv_says_what_to_install(tmp_path: Path) -> None:
    """Where Python lacks its venv module and the user is not root, make names the package to install."""
    program(tmp_path / "python", 'case "$*" in *ensurepip*) exit 1 ;; *print*) echo python3.11-venv ;; esac')
    program(tmp_path / "id", "echo 1000")
    finished = make(tmp_path, "lint", f"PYTHON={tmp_path}/python", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert finished.returncode != 0
    assert "sudo apt-get install python3.11-venv" in finished.stderr


def test_the_installation_is_tried_twice_and_then_fails(tmp_path: Path) -> None:
    """After a first failure of pip make tries once more, says so, and leaves no mark of success when that fails too."""
    fake = tmp_path / "python"
    venv = f'mkdir -p .venv/bin; cp "{fake}" .venv/bin/python'
    program(fake, f'case "$*" in *venv*--clear*) {venv} ;; *"pip install"*) echo pip >>"{tmp_path}/calls"; exit 1 ;; esac')
    finished = make(tmp_path, "test", f"PYTHON={fake}", "PAUSE=0")
    assert finished.returncode != 0
    assert "trying once more" in finished.stderr
    assert (tmp_path / "calls").read_text().split() == ["pip", "pip"]
    assert not (tmp_path / ".venv/.ready").exists()


def test_compiling_without_a_compiler_says_what_to_install(tmp_path: Path) -> None:
    """make compiled names the compiler that is not there, the package that has one, and how to name another."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    program(tmp_path / ".venv/bin/python", f'exec "{sys.executable}" "$@"')
    (tmp_path / ".venv/.ready").touch()
    os.utime(tmp_path / ".venv/.ready", (2**32, 2**32))
    (tmp_path / "fabric").mkdir()
    finished = make(tmp_path, "compiled", CC="cc-that-nobody-has")
    assert finished.returncode != 0
    assert "make compiled: cc-that-nobody-has is not installed" in finished.stderr
    assert "apt-get install gcc python3-dev" in finished.stderr
    assert not (tmp_path / "build/compiled").exists()


def test_what_is_compiled_can_be_and_only_if_asked_for() -> None:
    """The hook is off, its modules exist, and no class that stays interpreted inherits from a compiled one, which can't work."""
    hook = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    assert hook["enable-by-default"] is False
    compiled = {ROOT / path.lstrip("/") for path in hook["include"]}
    assert [path for path in compiled if not path.is_file()] == []
    trees = {path: ast.parse(path.read_text()) for path in (ROOT / "fabric").rglob("*.py")}
    classes = {path: [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)] for path, tree in trees.items()}
    protocols = {node.name for found in classes.values() for node in found if "Protocol" in map(ast.unparse, node.bases)}
    native = {(path, node.name) for path in compiled for node in classes[path]}
    homes = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in trees}
    wrong = []
    for path in trees.keys() - compiled:
        imported = {
            alias.asname or alias.name: (homes.get(str(node.module)), alias.name)
            for node in ast.walk(trees[path])
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        bases = {base.id for node in classes[path] for base in node.bases if isinstance(base, ast.Name)}
        wrong += [(path.name, name) for name in bases - protocols if imported.get(name) in native]
    assert wrong == []


def test_no_compiled_coroutine_waits_while_it_handles_an_error() -> None:
    """mypyc keeps the error that is being handled for the thread and not for the coroutine: whoever runs while it waits in an
    ``except`` or a ``finally`` would see it, and what it raises again afterwards could be another's."""
    waits = ast.Await | ast.Yield | ast.YieldFrom | ast.AsyncFor | ast.AsyncWith
    found = []
    for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]["include"]:
        nodes = list(ast.walk(ast.parse((ROOT / path.lstrip("/")).read_text())))
        parts = [part for node in nodes if isinstance(node, ast.Try) for part in [*node.handlers, *node.finalbody]]
        found += [f"{path}:{node.lineno}" for part in parts for node in ast.walk(part) if isinstance(node, waits)]
        # What ends a context runs while its error is handled; that of a time limit does not wait.
        contexts = [item.context_expr for node in nodes if isinstance(node, ast.AsyncWith) for item in node.items]
        found += [f"{path}:{one.lineno}" for one in contexts if not ast.unparse(one).startswith("asyncio.timeout")]
    assert found == []


def test_the_hooks_use_the_locked_tools() -> None:
    """pre-commit runs the tools of .venv, not versions of its own."""
    hooks = [hook for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"] for hook in repo["hooks"]]
    assert {hook["entry"].split()[0].rpartition("/")[0] for hook in hooks} == {".venv/bin"}


def test_every_setting_is_documented() -> None:
    """docs/configuration.md has a row for each variable of Settings with its default, and none for what is gone."""
    page = (ROOT / "docs/configuration.md").read_text()
    rows = dict(re.findall(r"^\| `FABRIC_(\w+)` \| ([^|]+) \|", page, re.M))
    fields = Settings.model_fields
    assert {name.lower() for name in rows} == set(fields)
    for name, field in fields.items():
        if isinstance(field.default, int | float):
            assert float(rows[name.upper()]) == field.default, name


def test_every_key_of_a_fleet_file_is_documented() -> None:
    """docs/startup.md names each key that a fleet file may have."""
    page = (ROOT / "docs/startup.md").read_text()
    models: tuple[type[BaseModel], ...] = (FleetEntry, ServiceEntry, StageEntry, GateEntry, RetryEntry)
    assert {name for model in models for name in model.model_fields if f"`{name}`" not in page} == set()


def test_the_fleet_file_in_the_documentation_is_valid() -> None:
    """Each fleet file that a page shows is read without complaint."""
    shown = re.findall(r"```yaml\n(name: .*?)```", (ROOT / "docs/startup.md").read_text(), re.S)
    assert [parse_fleet(text, "docs.yaml").name for text in shown] == ["shop"]


def test_every_command_and_exit_code_is_documented() -> None:
    """docs/cli.md has a row for each command and each exit code, and none for what is gone."""
    page = (ROOT / "docs/cli.md").read_text()
    rows = re.findall(r"^\| `fabric ([a-z-]+)", page, re.M)
    assert sorted(rows) == sorted(command.__name__.rpartition(".")[2].rstrip("_").replace("_", "-") for command in COMMANDS)
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.M)] == [int(code) for code in ExitCode]


def test_the_example_in_the_readme_runs(tmp_path: Path) -> None:
    """The README's program has at most thirty lines, and run as printed says what it promises."""
    (text,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(text.splitlines()) <= 30
    (tmp_path / "hello.py").write_text(text)
    finished = subprocess.run(
        [sys.executable, "-W", "error", "hello.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert set(finished.stdout.splitlines()) >= {
        "by name:       Hello, Ada!",
        "by capability: Hello, Grace!",
        "typed:         Hello, Edsger!",
        "event:         Ada was greeted",
    }
    assert finished.stderr == ""


def test_every_balancing_strategy_is_documented() -> None:
    """docs/messaging.md has a row for each name that a hub takes."""
    page = (ROOT / "docs/messaging.md").read_text()
    assert {name for name in STRATEGIES if f"| `{name}` |" not in page} == set()
