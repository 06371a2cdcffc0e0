"""The public names: all there, loaded only when asked for, and explained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fabric

# The names that the design fixes; more may be public, these must be.
PROMISED = {
    "DEFAULT_STARTUP_STAGES",
    "Health",
    "Hub",
    "Priority",
    "SERVICE_DEPENDENCIES",
    "Service",
    "ServiceDefinition",
    "ServiceDependencyGraph",
    "ServiceError",
    "ServiceMessage",
    "ServiceRegistry",
    "StartupOrchestrator",
    "StartupProfile",
    "StartupStage",
    "on_broadcast",
    "on_event",
    "rpc",
}
PAGES = "\n".join(page.read_text() for page in sorted((Path(__file__).parents[2] / "docs").rglob("*.md")))


def test_every_promised_name_is_public() -> None:
    """What the design promises can be imported from fabric itself."""
    assert set(fabric.__all__) >= PROMISED


@pytest.mark.parametrize("name", fabric.__all__)
def test_a_public_name_is_explained(name: str) -> None:
    """A public name resolves, a class or function has a docstring of its own, and a page of the documentation names it."""
    value = getattr(fabric, name)
    compiled = isinstance(value, type) and not str(sys.modules[value.__module__].__file__).endswith(".py")
    if callable(value) and not compiled:  # mypyc leaves the docstrings of classes out
        assert (value.__doc__ or "").strip(), f"{name} has no docstring"
        assert value.__doc__ != getattr(type(value), "__doc__", None)
    assert f"`{name}" in PAGES or f"@{name}" in PAGES, f"no page in docs/ names `{name}`"


def test_no_name_twice_and_dir_shows_all() -> None:
    """__all__ has no doubles, and an interactive user finds the names although they load lazily."""
    assert len(fabric.__all__) == len(set(fabric.__all__))
    assert set(fabric.__all__) <= set(dir(fabric))


def test_an_unknown_name_fails_like_in_any_module() -> None:
    """A misspelt name raises AttributeError with the name in it, so that hasattr and star imports work."""
    with pytest.raises(AttributeError, match="Hubb"):
        _ = fabric.Hubb  # type: ignore[attr-defined,unused-ignore]


def test_star_import_gives_the_public_names() -> None:
    """``from fabric import *`` in a fresh interpreter works."""
    program = "from fabric import *; Hub, Service, rpc, Priority, DEFAULT_STARTUP_STAGES"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
