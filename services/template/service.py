"""The template service: stores templates and fills them in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from fabric import Health, Service, ServiceError, rpc
from fabric.errors import ConfigurationError
from services.template.contracts import Rendered, RenderRequest, Template, TemplateName
from services.template.rendering import BUILT_IN, BadTemplate, CannotRender, Rendering


class TemplateSettings(BaseSettings):
    """From the environment. What was put is in ``templates`` in ``data_dir`` (``FABRIC_DATA_DIR``), one file each."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    data_dir: Path = Field(default=Path(".fabric/todo/data"), validation_alias=AliasChoices("FABRIC_DATA_DIR", "data_dir"))


class TemplateService(Service):
    """Jinja2 templates in a sandbox. Those that come with it can be replaced by putting one of the same name.

    Several instances may share a directory; each reads it at its start and writes what it is given.
    """

    name, version = "template-service", "1.0.0"
    capabilities = ("templating",)

    MAX_TEMPLATES = 1000

    def __init__(self, settings: TemplateSettings | None = None) -> None:
        self._directory = (settings or TemplateSettings()).data_dir / "templates"
        self._rendering = Rendering()
        self._templates: dict[str, Template] = {template.name: template for template in BUILT_IN}
        self._thread: ThreadPoolExecutor | None = None

    async def start(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="templates")
        self._templates.update(await asyncio.to_thread(_load, self._directory, self._rendering))

    async def stop(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def check_health(self) -> Health:
        return Health.ok(templates=len(self._templates))

    @rpc(idempotent=True, timeout=5.0)
    async def render(self, request: RenderRequest) -> Rendered:
        """A template with values in it.

        Raises:
            ServiceError: ``template.not-found`` or ``template.cannot-render``.
        """
        template = self._templates.get(request.name)
        if template is None:
            raise ServiceError(
                f"there is no template {request.name!r}; there are: {', '.join(sorted(self._templates))}",
                code="template.not-found",
                details={"name": request.name},
            )
        try:
            # In a thread, so that a template that computes for long keeps nothing but other templates waiting.
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, lambda: self._rendering.render(template, request.values, by=self.name)
            )
        except CannotRender as error:
            raise ServiceError(f"template {request.name!r}: {error}", code="template.cannot-render") from error

    @rpc(idempotent=True, timeout=5.0)
    async def put(self, template: Template) -> None:
        """Store a template, in place of the one of that name if there is one.

        Raises:
            ServiceError: ``template.invalid``, ``template.too-many`` or ``template.not-saved``.
        """
        if template.name not in self._templates and len(self._templates) >= self.MAX_TEMPLATES:
            raise ServiceError(f"there are {self.MAX_TEMPLATES} templates already", code="template.too-many")
        try:
            self._rendering.check(template)
            await asyncio.to_thread(_save, self._directory, template)
        except BadTemplate as error:
            raise ServiceError(f"template {template.name!r}, {error}", code="template.invalid") from error
        except OSError as error:
            raise ServiceError(f"can't be written: {error}", code="template.not-saved", retryable=True) from error
        self._templates[template.name] = template

    @rpc(idempotent=True, timeout=5.0)
    async def list_templates(self) -> list[TemplateName]:
        return sorted(self._templates)


def _load(directory: Path, rendering: Rendering) -> Mapping[str, Template]:
    templates: dict[str, Template] = {}
    for path in sorted(directory.glob("*.json")):
        try:
            template = Template.model_validate_json(path.read_bytes())
            rendering.check(template)
        except (ValidationError, BadTemplate) as error:
            raise ConfigurationError(f"not a template: {error}; mend the file or move it away", source=str(path)) from error
        templates[template.name] = template
    return templates


def _save(directory: Path, template: Template) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    new = directory / f"{template.name}.new"
    new.write_text(template.model_dump_json(indent=2), encoding="utf-8")
    new.replace(directory / f"{template.name}.json")
