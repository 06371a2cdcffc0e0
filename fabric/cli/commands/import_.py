"""``fabric import``: a fleet file from what another tool starts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fabric.cli.options import Json

if TYPE_CHECKING:  # so that `fabric --help` does not pay for it
    from fabric.coordination.importers.draft import Draft

importers = typer.Typer(
    name="import",
    help="Make a fleet file of what another tool starts: services, dependencies, health checks.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Option(help="Of the fleet. Default: the one in the files, else the directory's.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write it here. Default: standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


def register(app: typer.Typer) -> None:
    app.add_typer(importers)


@importers.command()
def compose(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Compose files; later ones are laid over earlier ones.")],
    profile: Annotated[list[str] | None, typer.Option(help="A profile that is on; * is all. May be repeated.")] = None,
    env_file: Annotated[list[Path] | None, typer.Option(help="Variables. Default: .env beside the first file.")] = None,
    name: Name = "",
    out: Out = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """From compose files, as `docker compose` reads them: anchors, merges, variables, profiles, extends, include."""
    from fabric.coordination.importers.compose import read_compose

    _write(read_compose(files, profiles=profile or (), env_files=env_file or (), name=name), out, force=force, as_json=json)


@importers.command()
def systemd(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="*.service and *.target files, or directories of them.")],
    name: Name = "",
    out: Out = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """From systemd units with their drop-ins, ordered by After= and Before=."""
    from fabric.coordination.importers.systemd import read_systemd

    _write(read_systemd(paths, name=name), out, force=force, as_json=json)


@importers.command()
def kubernetes(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Manifests, or directories with all below them.")],
    name: Name = "",
    out: Out = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """From Kubernetes manifests, ordered by what init containers wait for and by the annotation fabric/depends-on."""
    from fabric.coordination.importers.kubernetes import read_kubernetes

    _write(read_kubernetes(paths, name=name), out, force=force, as_json=json)


def _write(draft: Draft, out: Path | None, *, force: bool, as_json: bool) -> None:
    """The fleet file, and on standard error what it comes to."""
    from fabric.cli.output import write, write_json
    from fabric.coordination.fleet import parse_fleet
    from fabric.errors import ConfigurationError

    text = draft.text()
    parse_fleet(text, out or "fleet.yaml")
    if out is not None:
        if out.exists() and not force:
            raise ConfigurationError("is there already; --force replaces it, --out names another", source=str(out))
        out.write_text(text, encoding="utf-8")
    if as_json:
        conditions = [str(edge.condition) for _, edge in draft.edges]
        write_json(
            {
                "name": draft.name,
                "services": list(draft.services),
                "edges": len(conditions),
                "conditions": {condition: conditions.count(condition) for condition in sorted(set(conditions))},
                "depth": len(draft.graph.parallel_groups()),
                "risky": [{"service": name, "needs": edge.on, "source": edge.source} for name, edge in draft.risky_edges],
                "notes": list(draft.notes),
                "written": str(out) if out else None,
            }
        )
        return
    if out is None:
        write(text.rstrip("\n"))
    sys.stderr.write(_summary(draft) + "\n")
    if out is not None:
        write(f"written to {out}; `fabric check {out}` and `fabric graph {out}` tell more")


def _summary(draft: Draft) -> str:
    lines = [f"{len(draft.services)} services, {len(draft.edges)} dependencies, {len(draft.graph.parallel_groups())} deep"]
    lines += draft.notes
    for name, edge in draft.risky_edges:
        mine, its = draft.services[name].criticality, draft.services[edge.on].criticality
        lines.append(f"{edge.source}: {name} ({mine}) needs {edge.on} ({its})")
    return "\n".join(lines)
