"""The routes that start tasks: POST of a media file (multipart), or of lists of voiceprints (JSON)."""

import contextlib
from collections.abc import Awaitable, Callable

from litestar import Request, Response, route
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation

from pipeline.query.edge import ids_of
from pipeline.query.errors import JSON_TYPE, body_too_large
from pipeline.query.forms import MediaForm
from pipeline.query.openapi import lists_operation, media_operation, refusal_specs, start_refusals
from pipeline.query.owners import owner_of
from pipeline.query.tasks import BASE_PATH, Tasks
from pipeline.request_lists import FIELDS
from pipeline.settings import Settings
from schemas.http import TaskAccepted
from schemas.tasks import Technology

AnyRequest = Request[object, object, State]
Start = Callable[[AnyRequest], Awaitable[tuple[str, bytes]]]  # the task's path, and the answer's body


def _announced_bytes(request: AnyRequest) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _from_lists(technology: Technology, tasks: Tasks, settings: Settings) -> Start:
    async def start(request: AnyRequest) -> tuple[str, bytes]:
        if (_announced_bytes(request) or 0) > settings.max_body_bytes:
            raise body_too_large(settings.max_body_bytes)
        return await tasks.start_lists(technology, request.stream(), ids_of(request.scope), lambda: owner_of(request.scope))

    return start


def _from_media(technology: Technology, tasks: Tasks, settings: Settings) -> Start:
    async def start(request: AnyRequest) -> tuple[str, bytes]:
        content_type = request.headers.get("content-type", "")
        with contextlib.closing(MediaForm(tasks.keeper, settings.max_media_bytes)) as form:
            await form.read(content_type, _announced_bytes(request), request.stream())
            values = {name: found[-1] for name, found in request.query_params.dict().items()}
            return await tasks.start_media(technology, form, values, ids_of(request.scope), owner_of(request.scope))

    return start


def _start_route(technology: Technology, operation: type[Operation], start: Start) -> HTTPRouteHandler:
    @route(
        f"{BASE_PATH}/{technology.value}",
        http_method=["POST"],
        name=f"start {technology.value}",
        operation_id=f"start_{technology.name.lower()}",
        operation_class=operation,
        summary=f"{technology.value}: start task",
        status_code=202,
        request_max_body_size=None,  # counted as it is read, by what the answer has to say
        responses={
            202: ResponseSpec(TaskAccepted, description="The task was started", generate_examples=False),
            **refusal_specs(start_refusals(technology)),
        },
    )
    async def start_task(request: AnyRequest) -> Response[bytes]:
        path, body = await start(request)
        return Response(body, media_type=JSON_TYPE, headers={"Location": path, "X-Location": path})

    return start_task


def start_routes(tasks: Tasks, settings: Settings) -> list[HTTPRouteHandler]:
    """POST of every technology."""
    routes = []
    for technology in Technology:
        if technology in FIELDS:
            start, operation = _from_lists(technology, tasks, settings), lists_operation(technology)
        else:
            start, operation = _from_media(technology, tasks, settings), media_operation(technology)
        routes.append(_start_route(technology, operation, start))
    return routes
