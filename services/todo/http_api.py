"""The paths of the HTTP interface."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, StringConstraints, TypeAdapter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fabric import Health
from services.todo.contracts import Identifier, Question, SearchByMeaning, TodoQuery
from services.todo.operations import Deadline, NewTodo, TodoOperations, TodoPatch
from services.todo.problems import Problem, Refused, problem_of

_log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024

Admission = Callable[[Request], Awaitable[None]]
Handler = Callable[[Request, Deadline], Awaitable[Response]]

_id: TypeAdapter[str] = TypeAdapter(Identifier)
_key: TypeAdapter[str] = TypeAdapter(Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,99}$")])
_whole: TypeAdapter[int | None] = TypeAdapter(int | None)


class HttpApi:
    """Each path is a method: read the request, one operation, an answer. What goes wrong becomes a problem document.

    Args:
        todos: the operations.
        health: what ``GET /health`` tells.
        admit: called first for every request but ``/health``; refuses by raising.
        deadline: makes the deadline of a request.
    """

    def __init__(
        self,
        todos: TodoOperations,
        health: Callable[[], Awaitable[Health]],
        admit: Admission,
        deadline: Callable[[Request], Deadline],
    ) -> None:
        self._todos, self._health, self._admit, self._deadline = todos, health, admit, deadline

    def application(self, *, hosts: list[str]) -> Starlette:
        """The application, answering to these host names only; ``*`` is any."""
        routes = [
            self._route("/health", "GET", self.health, open_to_all=True),
            self._route("/services", "GET", self.services),
            self._route("/todos", "GET", self.list_todos),
            self._route("/todos", "POST", self.create_todo),
            self._route("/todos/search", "GET", self.search_todos),
            self._route("/todos/{id}", "GET", self.get_todo),
            self._route("/todos/{id}", "PATCH", self.patch_todo),
            self._route("/todos/{id}", "DELETE", self.delete_todo),
            self._route("/ask", "POST", self.ask),
        ]
        return Starlette(
            routes=routes,
            # On loopback without a token the Host header is what keeps a web page from reaching in by DNS rebinding.
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)],
            exception_handlers={HTTPException: _unrouted},
        )

    def _route(self, path: str, method: str, handler: Handler, *, open_to_all: bool = False) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                deadline = self._deadline(request)
                if not open_to_all:
                    await self._admit(request)
                return await handler(request, deadline)
            except Exception as error:
                problem = problem_of(error)
                if problem.status == 500:
                    _log.exception("%s %s", method, path)
                return _problem(problem)

        return Route(path, endpoint, methods=[method])

    async def health(self, request: Request, deadline: Deadline) -> Response:
        health = await self._health()
        body = {"status": health.status, "reason": health.reason, "details": dict(health.details)}
        return _json(body, status=200 if health.is_ok else 503)

    async def services(self, request: Request, deadline: Deadline) -> Response:
        return _json(await self._todos.services(deadline))

    async def list_todos(self, request: Request, deadline: Deadline) -> Response:
        given = {name: request.query_params[name] for name in request.query_params if name in TodoQuery.model_fields}
        if "ids" in given:
            given["ids"] = given["ids"].split(",")  # type: ignore[assignment]
        return _json(await self._todos.list(TodoQuery.model_validate(given), deadline))

    async def create_todo(self, request: Request, deadline: Deadline) -> Response:
        new = NewTodo.model_validate({"command_id": _command_id(request), **await _body(request)})
        todo = await self._todos.create(new, deadline)
        return _json(todo, status=201, headers={"Location": f"/todos/{todo.id}", "Todo-Position": str(todo.position)})

    async def search_todos(self, request: Request, deadline: Deadline) -> Response:
        params = request.query_params
        given = {
            "query": params.get("q", ""),
            **{name: params[name] for name in ("status", "limit", "at_least") if name in params},
        }
        return _json(await self._todos.search(SearchByMeaning.model_validate(given), deadline))

    async def get_todo(self, request: Request, deadline: Deadline) -> Response:
        at_least = TodoQuery.model_validate({"at_least": request.query_params.get("at_least", 0)}).at_least
        return _json(await self._todos.get(_path_id(request), at_least, deadline))

    async def patch_todo(self, request: Request, deadline: Deadline) -> Response:
        patch = TodoPatch.model_validate(await _body(request))
        todo = await self._todos.patch(_path_id(request), patch, _command_id(request), deadline)
        return _json(todo, headers={"Todo-Position": str(todo.position)})

    async def delete_todo(self, request: Request, deadline: Deadline) -> Response:
        expected = _whole.validate_python(request.query_params.get("expected_version"))
        deleted = await self._todos.delete(_path_id(request), expected, _command_id(request), deadline)
        return Response(status_code=204, headers={"Todo-Position": str(deleted.position)})

    async def ask(self, request: Request, deadline: Deadline) -> Response:
        return _json(await self._todos.ask(Question.model_validate(await _body(request)), deadline))


async def _body(request: Request) -> dict[str, Any]:
    # Only JSON: a form on some web page can't send it without asking the browser, so it can't write here.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "the body must be application/json")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise Refused(413, f"the body is over {MAX_BODY_BYTES} bytes")
    try:
        body = orjson.loads(bytes(data))
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refused(400, "the body must be a JSON object")
    return body


def _path_id(request: Request) -> str:
    return _id.validate_python(request.path_params["id"])


def _command_id(request: Request) -> str:
    """The client's name for its intention, so that it may repeat the request; a new one when it gives none."""
    return _key.validate_python(request.headers.get("idempotency-key") or uuid.uuid4().hex)


def _json(value: BaseModel | dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    data = value.model_dump_json().encode() if isinstance(value, BaseModel) else orjson.dumps(value)
    return Response(data, status_code=status, headers=headers, media_type="application/json")


def _problem(problem: Problem) -> Response:
    return Response(
        orjson.dumps(problem.body, default=str),
        status_code=problem.status,
        headers=problem.headers,
        media_type="application/problem+json",
    )


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(
        Problem(
            status=error.status_code, detail=f"{request.method} {request.url.path}: {error.detail}", code="gateway.no-such-path"
        )
    )
