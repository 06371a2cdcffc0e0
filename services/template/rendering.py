"""Templates in a sandbox, with limits on what they may cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from jinja2 import StrictUndefined, TemplateError
from jinja2.exceptions import SecurityError, TemplateSyntaxError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.template.contracts import Rendered, Template

MAX_OUTPUT: Final = 256 * 1024

BUILT_IN: Final = (
    Template(
        name="welcome",
        subject="Welcome, {{ name }}",
        text="Hello {{ name }},\n\nyour to-do list is ready.\n",
        html="<p>Hello {{ name }},</p><p>your to-do list is ready.</p>",
    ),
    Template(
        name="todo-created",
        subject="New to-do: {{ title }}",
        text=(
            "You have a new to-do: {{ title }}\n"
            "{% if due %}It is due on {{ due }}.\n{% endif %}"
            "{% if notes %}\n{{ notes }}\n{% endif %}"
        ),
        html="<p>You have a new to-do: <b>{{ title }}</b></p>{% if due %}<p>It is due on {{ due }}.</p>{% endif %}",
    ),
)


class BadTemplate(Exception):
    """A source that is not a template; ``line`` from 1."""

    def __init__(self, part: str, reason: str, line: int) -> None:
        super().__init__(f"line {line} of the {part}: {reason}")
        self.part, self.line = part, line


class CannotRender(Exception):
    """A value is missing, or the template does what it may not."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Keeps a template from the process's objects. It does not keep one from computing for long, so who may put templates
    is trusted that far."""

    def __init__(self, *, escape: bool) -> None:
        super().__init__(autoescape=escape, undefined=StrictUndefined, keep_trailing_newline=True)
        # Without range, lipsum and friends a loop is as long as a value that the caller sent.
        self.globals.clear()


class Rendering:
    """Compiles sources and fills them in. Holds no templates."""

    def __init__(self) -> None:
        self._plain, self._html = _Sandbox(escape=False), _Sandbox(escape=True)

    def check(self, template: Template) -> None:
        """Compile every part.

        Raises:
            BadTemplate: one is not a template.
        """
        for part, source in (("subject", template.subject), ("text", template.text), ("html", template.html or "")):
            try:
                self._plain.parse(source)
            except TemplateSyntaxError as error:
                raise BadTemplate(part, error.message or "not a template", error.lineno) from error

    def render(self, template: Template, values: Mapping[str, Any], *, by: str) -> Rendered:
        """The template with ``values`` in it; the subject on one line.

        Raises:
            CannotRender: a value is missing or of the wrong kind, the sandbox forbids it, or it becomes too long.
        """
        subject = " ".join(self._fill(self._plain, template.subject, values).split())
        text = self._fill(self._plain, template.text, values)
        html = self._fill(self._html, template.html, values) if template.html is not None else None
        return Rendered(subject=subject, text=text, html=html, by=by)

    def _fill(self, sandbox: _Sandbox, source: str, values: Mapping[str, Any]) -> str:
        parts: list[str] = []
        size = 0
        try:
            for part in sandbox.from_string(source).generate(**values):
                size += len(part)
                if size > MAX_OUTPUT:
                    raise CannotRender(f"the result is over {MAX_OUTPUT} characters")
                parts.append(part)
        except UndefinedError as error:
            raise CannotRender(f"{error.message}; give it a value or a default") from error
        except SecurityError as error:
            raise CannotRender(f"the template does what it may not: {error}") from error
        except (TemplateError, TypeError, ValueError, ArithmeticError, MemoryError) as error:
            raise CannotRender(f"{type(error).__name__}: {error}") from error
        return "".join(parts)
