"""Templates: filled in, kept, and kept in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fabric import Hub
from fabric.errors import ConfigurationError, RemoteError
from fabric.testing import Bench
from services.template.contracts import Rendered, RenderRequest, Template
from services.template.rendering import BUILT_IN, CannotRender, Rendering
from services.template.service import TemplateService, TemplateSettings


@pytest.fixture
async def templates(bench: Bench, hub: Hub, tmp_path: Path) -> TemplateService:
    await bench.start(TemplateService(TemplateSettings(data_dir=tmp_path)), instance="templates-1")
    return hub.proxy(TemplateService)


async def test_a_template_is_filled_in(hub: Hub, templates: TemplateService) -> None:
    """By capability: values go into all parts, are escaped in the HTML alone, and a subject is one line."""
    request = RenderRequest(name="todo-created", values={"title": "Fish &\nchips", "due": None, "notes": ""})
    rendered = await hub.call_by_capability("templating", "render", request, returns=Rendered)
    assert rendered.subject == "New to-do: Fish & chips"
    assert rendered.text == "You have a new to-do: Fish &\nchips\n"
    assert rendered.html == "<p>You have a new to-do: <b>Fish &amp;\nchips</b></p>"
    assert rendered.by == "template-service"


async def test_what_is_put_is_there_after_a_restart(bench: Bench, templates: TemplateService, tmp_path: Path) -> None:
    """A new template is listed and used at once and by the next instance; it may replace one that came with the service."""
    await templates.put(Template(name="hello", subject="Hi", text="Hi {{ name }}"))
    await templates.put(Template(name="welcome", subject="Hi", text="Ours"))
    await bench.stop("templates-1")
    await bench.start(TemplateService(TemplateSettings(data_dir=tmp_path)))
    assert await templates.list_templates() == ["hello", "todo-created", "welcome"]
    assert (await templates.render(RenderRequest(name="hello", values={"name": "Ann"}))).text == "Hi Ann"
    assert (await templates.render(RenderRequest(name="welcome"))).text == "Ours"


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (RenderRequest(name="nobody"), "template.not-found"),
        (RenderRequest(name="welcome"), "template.cannot-render"),
        (Template(name="bad", subject="", text="{% if %}"), "template.invalid"),
    ],
)
async def test_refusals_have_codes(templates: TemplateService, call: RenderRequest | Template, code: str) -> None:
    """An unknown template, a missing value and a source that is none are refused by name."""
    with pytest.raises(RemoteError) as raised:
        await (templates.put(call) if isinstance(call, Template) else templates.render(call))
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("source", "values"),
    [
        ("{{ ''.__class__.__mro__ }}", {}),
        ("{{ x.append(1) }}", {"x": []}),
        ("{{ range(10) }}", {}),
        ("{% include 'welcome' %}", {}),
        ("{{ 1 // 0 }}", {}),
        ("{% for a in x %}{% for b in x %}{{ t }}{% endfor %}{% endfor %}", {"x": list(range(100)), "t": "x" * 100}),
    ],
)
def test_a_template_stays_in_its_place(source: str, values: dict[str, Any]) -> None:
    """M31: it reaches no classes, changes no values, loads nothing, fails by our error, and does not grow without end."""
    with pytest.raises(CannotRender):
        Rendering().render(Template(name="t", subject="", text=source), values, by="test")


def test_those_that_come_with_it_are_templates() -> None:
    """Each compiles."""
    for template in BUILT_IN:
        Rendering().check(template)


async def test_a_damaged_file_is_named(bench: Bench, tmp_path: Path) -> None:
    """The start fails with the name of the file."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "odd.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="odd"):
        await bench.start(TemplateService(TemplateSettings(data_dir=tmp_path)))
