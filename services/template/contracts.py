"""What is said to the template service, and to any service that offers ``templating``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

TemplateName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9\-]{0,63}$")]
Source = Annotated[str, StringConstraints(max_length=32_768)]


class RenderRequest(BaseModel):
    """``values`` fill the template's variables; each that it names must be there."""

    model_config = ConfigDict(frozen=True)

    name: TemplateName
    values: dict[str, Any] = Field(default_factory=dict)


class Rendered(BaseModel):
    """``by``: who rendered it; a service without its templates says so here.

    ``html`` is None for a template that is text only.
    """

    model_config = ConfigDict(frozen=True)

    subject: str
    text: str
    html: str | None = None
    by: str


class Template(BaseModel):
    """Jinja2 sources. Values are escaped in ``html`` and not in the others."""

    model_config = ConfigDict(frozen=True)

    name: TemplateName
    subject: Source
    text: Source
    html: Source | None = None
