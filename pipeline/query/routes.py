"""The routes under /api/technology, with their OpenAPI description."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from litestar import Request, Response, route
from litestar.datastructures import ResponseHeader, State
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    Reference,
    RequestBody,
    Schema,
)
from litestar.openapi.spec import Parameter as HeaderParameter
from litestar.params import Parameter

from pipeline.query.edge import MAX_ID_CHARS, ids_of
from pipeline.query.errors import JSON_TYPE
from pipeline.query.tasks import BASE_PATH, Tasks
from pipeline.query.validation import FIELDS
from schemas.errors import RequestError
from schemas.http import ANSWERS, TaskAccepted
from schemas.requests import MAX_VOICEPRINTS
from schemas.tasks import Technology

AnyRequest = Request[object, object, State]
TaskId = Annotated[str, Parameter(description="ID of the task to get the result of", schema_extra={"format": "uuid"})]

REFUSALS = {
    HTTPStatus.BAD_REQUEST: "Invalid request.",
    HTTPStatus.NOT_FOUND: "Resource not found.",
    HTTPStatus.METHOD_NOT_ALLOWED: "Invalid method.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Request size limit exceeded.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Request validation error.",
    HTTPStatus.TOO_MANY_REQUESTS: "Rate limit exceeded.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Service error.",
}
LOCATION_HEADERS = [
    ResponseHeader(name=name, description="Where to poll for the task's state and result", documentation_only=True)
    for name in ("Location", "X-Location")
]
READ_REFUSALS = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.TOO_MANY_REQUESTS)
START_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
)


def _refusal_specs(statuses: Sequence[HTTPStatus]) -> dict[int, ResponseSpec]:
    specs = {}
    for status in (*statuses, HTTPStatus.INTERNAL_SERVER_ERROR):
        specs[status.value] = ResponseSpec(RequestError, description=REFUSALS[status], generate_examples=False)
    return specs


def _voiceprints_schema() -> Schema:
    element = Schema(type=OpenAPIType.STRING, content_encoding="base64", description="A voiceprint")
    return Schema(type=OpenAPIType.ARRAY, items=element, min_items=1, max_items=MAX_VOICEPRINTS)


def _id_header(name: str, description: str) -> HeaderParameter:
    schema = Schema(type=OpenAPIType.STRING, min_length=1, max_length=MAX_ID_CHARS)
    text = f"{description}. Generated if absent, echoed in every answer."
    return HeaderParameter(name=name, param_in="header", schema=schema, required=False, description=text)


ID_HEADERS = (
    _id_header("x-correlation-id", "Unique over a series of requests and answers"),
    _id_header("x-request-id", "Unique to this request"),
)


@dataclass
class DescribedOperation(Operation):
    """What the handlers' signatures do not tell, since the edge reads the ids and `validation` the bodies."""

    def __post_init__(self) -> None:
        """Adds the two id headers."""
        self.parameters = [*(self.parameters or []), *ID_HEADERS]


def _start_operation(technology: Technology) -> type[Operation]:
    names = FIELDS[technology]
    properties: dict[str, Schema | Reference] = {name: _voiceprints_schema() for name in names}
    schema = Schema(type=OpenAPIType.OBJECT, required=list(names), properties=properties)

    @dataclass
    class StartOperation(DescribedOperation):
        def __post_init__(self) -> None:
            super().__post_init__()
            self.request_body = RequestBody(content={JSON_TYPE: OpenAPIMediaType(schema=schema)}, required=True)

    return StartOperation


def _read_route(technology: Technology, tasks: Tasks) -> HTTPRouteHandler:
    answers = ANSWERS[technology]
    data = answers[0] if len(answers) == 1 else answers[0] | answers[1]

    @route(
        f"{BASE_PATH}/{technology.value}/{{task_id:str}}",
        http_method=["GET"],
        name=f"read {technology.value}",
        operation_id=f"read_{technology.name.lower()}",
        operation_class=DescribedOperation,
        summary=f"{technology.value}: get result",
        responses={200: ResponseSpec(data, description="The task", generate_examples=False), **_refusal_specs(READ_REFUSALS)},
    )
    async def read_task(task_id: TaskId) -> Response[bytes]:
        return Response(await tasks.read(technology, task_id), media_type=JSON_TYPE)

    return read_task


def _start_route(technology: Technology, tasks: Tasks, max_body_bytes: int) -> HTTPRouteHandler:
    @route(
        f"{BASE_PATH}/{technology.value}",
        http_method=["POST"],
        name=f"start {technology.value}",
        operation_id=f"start_{technology.name.lower()}",
        operation_class=_start_operation(technology),
        summary=f"{technology.value}: start task",
        response_headers=LOCATION_HEADERS,
        status_code=202,
        request_max_body_size=max_body_bytes,
        responses={
            202: ResponseSpec(TaskAccepted, description="The task was started", generate_examples=False),
            **_refusal_specs(START_REFUSALS),
        },
    )
    async def start_task(request: AnyRequest) -> Response[bytes]:
        path, body = await tasks.start(technology, await request.body(), ids_of(request.scope))
        return Response(body, media_type=JSON_TYPE, headers={"Location": path, "X-Location": path})

    return start_task


def _read_only_route(technology: Technology) -> HTTPRouteHandler:
    # A path with no method but OPTIONS: Litestar answers the others with 405 and Allow, instead of 404.
    @route(
        f"{BASE_PATH}/{technology.value}", http_method=["OPTIONS"], name=f"no start {technology.value}", include_in_schema=False
    )
    async def describe_methods() -> Response[None]:
        return Response(None, status_code=HTTPStatus.NO_CONTENT, headers={"Allow": "OPTIONS"})

    return describe_methods


def technology_routes(tasks: Tasks, max_body_bytes: int) -> list[HTTPRouteHandler]:
    """GET of every technology, POST of those that start from JSON; a media file starts none here."""
    routes = []
    for technology in Technology:
        routes.append(_read_route(technology, tasks))
        if technology in FIELDS:
            routes.append(_start_route(technology, tasks, max_body_bytes))
        else:
            routes.append(_read_only_route(technology))
    return routes
