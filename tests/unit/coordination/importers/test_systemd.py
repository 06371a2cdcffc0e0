"""systemd units."""

from __future__ import annotations

from pathlib import Path

import pytest

from fabric.coordination.fleet import parse_fleet
from fabric.coordination.importers.draft import Draft
from fabric.coordination.importers.systemd import read_systemd
from fabric.errors import ConfigurationError, DependencyCycle
from fabric.startup.definition import RetryPolicy

UNITS = {
    "db.service": """
# The database.
[Service]
Type=notify
ExecStart=/usr/bin/db --data \\
  ; a comment in between
  "/var/lib/my db"
TimeoutStartSec=1min 30s
TimeoutStopSec=infinity
Restart=on-failure
RestartSec=500ms
StartLimitBurst=4
""",
    "migrate.service": "[Unit]\nRequires=db.service\nAfter=db.service network.target\n"
    "[Service]\nType=oneshot\nExecStart=-/bin/migrate\n",
    "web.service": """
[Unit]
Requires=migrate.service
BindsTo=back.target
Wants=cache.service
After=migrate.service cache.service back.target network.target
[Service]
ExecStart=/usr/bin/web
[Install]
WantedBy=multi-user.target
""",
    "cache.service": "[Unit]\nBefore=late.service\n[Service]\nExecStart=/usr/bin/cache\n",
    "late.service": "[Unit]\nRequires=db.service\n[Service]\nExecStart=/usr/bin/late ${ARGS}\nRestart=always\n",
    "api.service": "[Service]\nExecStart=/usr/bin/api\nType=notify\n[Install]\nRequiredBy=back.target\n",
    "back.target": "[Unit]\nWants=mail.service\n",
    "mail.service": "[Service]\nExecStart=/usr/bin/mail\n",
    "worker@.service": "[Unit]\nAfter=nobody.service\n[Service]\nExecStart=/usr/bin/worker %i\n",
}


def write(root: Path, units: dict[str, str]) -> Path:
    for name, text in units.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def edges(draft: Draft) -> dict[tuple[str, str], str]:
    return {(name, edge.on): str(edge.condition) + ("?" if edge.optional else "") for name, edge in draft.edges}


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    return read_systemd([write(tmp_path / "shop", UNITS)])


def test_order_and_requirement(draft: Draft) -> None:
    """After with Requires is a dependency, After alone is waited for while it comes, Before is the reverse, targets are their
    members; a oneshot must complete, one that notifies must be healthy, others have only to start."""
    assert edges(draft) == {
        ("migrate", "db"): "healthy",
        ("web", "migrate"): "completed",
        ("web", "cache"): "started?",
        ("web", "api"): "healthy",
        ("web", "mail"): "started?",
        ("late", "cache"): "started?",
    }


def test_what_is_taken_over(draft: Draft) -> None:
    """Commands over several lines, times, restarts and criticality are in the fleet file; templates are left out."""
    fleet = parse_fleet(draft.text(), "fleet.yaml")
    assert fleet.name == "shop"
    assert set(fleet.graph) == {"db", "migrate", "web", "cache", "late", "api", "mail"}
    assert fleet.runs["db"].command == ("/usr/bin/db", "--data", "/var/lib/my db")
    assert fleet.runs["migrate"].command == ("/bin/migrate",)
    assert (fleet.graph["db"].timeout, fleet.graph["db"].stop_timeout) == (90.0, 10.0)
    assert fleet.graph["db"].retry_policy == RetryPolicy(attempts=4, delay=0.5, factor=1.0)
    assert [fleet.runs[name].restart for name in ("db", "web", "late")] == [True, False, True]
    assert [fleet.graph[name].critical for name in ("db", "cache", "mail", "web")] == [True, False, False, False]


def test_what_could_not_be_taken_over_is_told(draft: Draft) -> None:
    """Units that are not given, requirements without an order, and variables in commands are named."""
    assert list(draft.notes) == [
        "Not given, and taken to be there: network.target.",
        "late requires db.service without an order: they start beside each other.",
        "late: $ in its command is for systemd to replace; look it over.",
    ]


def test_drop_ins(tmp_path: Path) -> None:
    """Drop-ins come after the unit; a setting without a value takes back those before it."""
    units = {
        "a.service": "[Unit]\nAfter=b.service\nRequires=b.service\n[Service]\nExecStart=/bin/a\nTimeoutSec=5\n",
        "b.service": "[Service]\nExecStart=/bin/b\n",
        "c.service": "[Service]\nExecStart=/bin/c\n",
        "a.service.d/10-order.conf": "[Unit]\nAfter=\nAfter=c.service\n[Service]\nExecStart=\nExecStart=/bin/other\n",
    }
    draft = read_systemd([write(tmp_path, units)], name="x")
    assert edges(draft) == {("a", "c"): "started?"}
    assert draft.services["a"].command == ("/bin/other",)
    assert (draft.services["a"].timeout, draft.services["a"].stop_timeout) == (5.0, 5.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[Service]\nExecStart\n", r"a\.service:2: 'ExecStart' is not a setting"),
        ("[Service]\nExecStart=/bin/a\nTimeoutSec=soon\n", "'soon' is not a time span"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A line that is no setting and a time that is none are refused with their place."""
    with pytest.raises(ConfigurationError, match=message):
        read_systemd([write(tmp_path, {"a.service": text})])


def test_a_cycle_and_an_empty_directory_are_refused(tmp_path: Path) -> None:
    """S4: units that require and follow each other are refused with their lines; a directory without units is refused."""
    with pytest.raises(ConfigurationError, match=r"no \*\.service files"):
        read_systemd([tmp_path])
    ring = {f"{a}.service": f"[Unit]\nRequires={b}.service\nAfter={b}.service\n" for a, b in ("ab", "ba")}
    with pytest.raises(DependencyCycle, match=r"a\.service:3"):
        read_systemd([write(tmp_path, ring)])
