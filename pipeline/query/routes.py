"""The routes that tell of tasks: GET by task id, and the events of a call."""

from typing import Annotated

from litestar import Request, Response, route
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from litestar.response import Stream

from pipeline.query.errors import JSON_TYPE
from pipeline.query.events import Hub
from pipeline.query.openapi import READ_REFUSALS, ReadOperation, refusal_specs
from pipeline.query.push import EVENTS_TYPE, EventAnswer, Waits, read_call_id, read_wait
from pipeline.query.starts import start_routes
from pipeline.query.tasks import BASE_PATH, LargeAnswer, Tasks
from pipeline.query.view import View
from pipeline.settings import Settings
from schemas.http import ANSWERS
from schemas.tasks import Technology

EVENTS_PATH = "/api/events"

AnyRequest = Request[object, object, State]
AnyAnswer = Response[bytes] | Stream
TaskId = Annotated[str, Parameter(description="ID of the task to get the result of", schema_extra={"format": "uuid"})]


def _read_route(technology: Technology, tasks: Tasks, waits: Waits) -> HTTPRouteHandler:
    answers = ANSWERS[technology]
    data = answers[0] if len(answers) == 1 else answers[0] | answers[1]

    @route(
        f"{BASE_PATH}/{technology.value}/{{task_id:str}}",
        http_method=["GET"],
        name=f"read {technology.value}",
        operation_id=f"read_{technology.name.lower()}",
        operation_class=ReadOperation,
        summary=f"{technology.value}: get result",
        responses={200: ResponseSpec(data, description="The task", generate_examples=False), **refusal_specs(READ_REFUSALS)},
    )
    async def read_task(task_id: TaskId, request: AnyRequest) -> AnyAnswer:
        await waits.hold(technology, task_id, read_wait(request.query_params), request.scope, request.receive)
        answer = await tasks.read(technology, task_id, request.scope)
        if isinstance(answer, LargeAnswer):
            return Stream(answer.pieces, media_type=JSON_TYPE, headers={"content-length": str(answer.size_bytes)})
        return Response(answer, media_type=JSON_TYPE)

    return read_task


def events_route(hub: Hub, view: View) -> HTTPRouteHandler:
    """GET of a call's events; OpenAPI has no words for a stream that does not end, so the document only names it."""

    @route(EVENTS_PATH, http_method=["GET"], name="events", media_type=EVENTS_TYPE, include_in_schema=False)
    async def read_events(request: AnyRequest) -> EventAnswer:
        return EventAnswer(hub, view, read_call_id(request.query_params))

    return read_events


def technology_routes(tasks: Tasks, waits: Waits, settings: Settings) -> list[HTTPRouteHandler]:
    """GET and POST of every technology."""
    return [_read_route(technology, tasks, waits) for technology in Technology] + start_routes(tasks, settings)
