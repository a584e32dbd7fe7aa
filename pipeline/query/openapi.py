"""What the OpenAPI document says of operations that the handlers' signatures do not tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Encoding,
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    Reference,
    RequestBody,
    Schema,
)
from litestar.openapi.spec import Parameter as SpecParameter

from pipeline.query.edge import MAX_ID_CHARS
from pipeline.query.errors import JSON_TYPE
from pipeline.query.forms import CONFIG, FILE, FORM_TYPE
from pipeline.query.gate import OPEN_PATHS
from pipeline.query.media_requests import CAPPED, CHANNELS, CONFIGS, MAX_TIME_S
from pipeline.query.push import MAX_WAIT_S
from pipeline.request_lists import FIELDS
from schemas.errors import RequestError
from schemas.media import Header
from schemas.requests import MAX_VOICEPRINTS, ChannelMode
from schemas.tasks import Technology

REFUSALS = {
    HTTPStatus.BAD_REQUEST: "Invalid request.",
    HTTPStatus.FORBIDDEN: "Request is forbidden.",
    HTTPStatus.NOT_FOUND: "Resource not found.",
    HTTPStatus.METHOD_NOT_ALLOWED: "Invalid method.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Request size limit exceeded.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Request validation error.",
    HTTPStatus.TOO_MANY_REQUESTS: "Rate limit exceeded.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Service error.",
    HTTPStatus.INSUFFICIENT_STORAGE: "Storage capacity exceeded.",
    HTTPStatus.SERVICE_UNAVAILABLE: "Too many waits and event streams, or not all tasks are known yet.",
}
_IDS = {
    Header.CORRELATION_ID.value: "As in the request, or made for it",
    Header.REQUEST_ID.value: "As in the request, or made for it",
}
_LOCATION = dict.fromkeys(("Location", "X-Location"), "Where to poll for the task's state and result")
_RATE = {
    "Retry-After": "Seconds until the next request is served",
    "X-RateLimit-Limit": "Requests in a window",
    "X-RateLimit-Remaining": "Requests that are left in this window",
    "X-RateLimit-Reset": "When the window ends (Unix time, s)",
}
_AGAIN = {"Retry-After": "Seconds after which to ask again"}
_HEADERS = {"202": _IDS | _LOCATION, "401": _IDS | {"WWW-Authenticate": "Bearer"}, "429": _IDS | _RATE}
READ_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_START_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INSUFFICIENT_STORAGE,
)


def start_refusals(technology: Technology) -> list[HTTPStatus]:
    """Of a POST; the licence does not count voice activity detection, as on the reference platform."""
    is_counted = technology is not Technology.VOICE_ACTIVITY_DETECTION
    return [*_START_REFUSALS, HTTPStatus.FORBIDDEN] if is_counted else [*_START_REFUSALS]


def refusal_specs(statuses: Sequence[HTTPStatus]) -> dict[int, ResponseSpec]:
    """The answers of 400 and above that an operation may give."""
    specs = {}
    for status in (*statuses, HTTPStatus.INTERNAL_SERVER_ERROR):
        specs[status.value] = ResponseSpec(RequestError, description=REFUSALS[status], generate_examples=False)
    return specs


def _id_header(name: str, description: str) -> SpecParameter:
    schema = Schema(type=OpenAPIType.STRING)
    text = f"{description}. Echoed in every answer; made when absent, or not 1 to {MAX_ID_CHARS} printable ASCII characters."
    return SpecParameter(name=name, param_in="header", schema=schema, required=False, description=text)


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


@dataclass
class ReadOperation(DescribedOperation):
    """A GET that may wait."""

    def __post_init__(self) -> None:
        """Adds the wait."""
        super().__post_init__()
        schema = Schema(type=OpenAPIType.NUMBER, minimum=0, maximum=MAX_WAIT_S, default=0)
        text = "Seconds to wait for a task that is not final to reach another state; then the answer is what it is without."
        self.parameters = [
            *(self.parameters or []),
            SpecParameter(name="wait", param_in="query", schema=schema, required=False, description=text),
        ]


class TruePlugin(JsonRenderPlugin):
    """Renders the document with what the gate and the edge answer, which Litestar does not see.

    And with `anyOf` where Litestar says `oneOf`: a whole number is a number.
    """

    def __init__(self, *, path: str, has_keys: bool) -> None:
        super().__init__(path=path)
        self._has_keys = has_keys

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The document as JSON."""
        for path, operation in _operations(openapi_schema):
            _add_gate(path, operation, has_keys=self._has_keys)
            _add_headers(operation["responses"])
        return super().render(request, _any_of(openapi_schema))


def _operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    paths = document["paths"].items()
    return [(path, operation) for path, each in paths for operation in each.values() if isinstance(operation, dict)]


def _add_gate(path: str, operation: dict[str, Any], *, has_keys: bool) -> None:
    """Add 401 where a key is asked for, 403 where there are none and the request is for another host."""
    if path not in OPEN_PATHS:
        status = HTTPStatus.UNAUTHORIZED if has_keys else HTTPStatus.FORBIDDEN
        content = {JSON_TYPE: {"schema": {"$ref": "#/components/schemas/RequestError"}}}
        answer = {"description": REFUSALS[HTTPStatus.FORBIDDEN], "content": content}
        operation["responses"].setdefault(str(status.value), answer)
    elif has_keys:
        operation["security"] = []


def _add_headers(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        named = _HEADERS.get(status, _IDS) | (_AGAIN if status == "503" and "404" in responses else {})
        response["headers"] = {name: {"description": text, "schema": {"type": "string"}} for name, text in named.items()}


def _any_of(value: Any) -> Any:  # noqa: ANN401  # JSON
    if isinstance(value, dict):
        return {"anyOf" if name == "oneOf" else name: _any_of(each) for name, each in value.items()}
    return [_any_of(each) for each in value] if isinstance(value, list) else value


BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"  # RFC 4648, section 4


def _voiceprints_schema() -> Schema:
    element = Schema(type=OpenAPIType.STRING, content_encoding="base64", pattern=BASE64, description="A voiceprint")
    return Schema(type=OpenAPIType.ARRAY, items=element, min_items=1, max_items=MAX_VOICEPRINTS)


def lists_operation(technology: Technology) -> type[Operation]:
    """A POST of lists of voiceprints."""
    names = FIELDS[technology]
    properties: dict[str, Schema | Reference] = {name: _voiceprints_schema() for name in names}
    schema = Schema(type=OpenAPIType.OBJECT, required=list(names), properties=properties)

    @dataclass
    class ListsOperation(DescribedOperation):
        def __post_init__(self) -> None:
            super().__post_init__()
            self.request_body = RequestBody(content={JSON_TYPE: OpenAPIMediaType(schema=schema)}, required=True)

    return ListsOperation


def _query(name: str, schema: Schema, text: str) -> SpecParameter:
    return SpecParameter(name=name, param_in="query", schema=schema, required=False, description=text)


def _seconds(name: str, text: str, **bounds: Any) -> SpecParameter:  # noqa: ANN401  # as Schema takes them
    return _query(name, Schema(type=OpenAPIType.NUMBER, maximum=MAX_TIME_S, **bounds), text)


def _media_parameters(technology: Technology) -> list[SpecParameter]:
    modes = Schema(type=OpenAPIType.STRING, enum=[mode.value for mode in ChannelMode], default=ChannelMode.SPLIT.value)
    numbers = Schema(type=OpenAPIType.STRING, pattern=f"^({CHANNELS.pattern})?$", default="")
    parameters = [
        _query("channel_mode", modes, "Whether each channel is answered by itself, or their mean as one"),
        _query("channels", numbers, "The channels to take, from 0, separated by commas; all by default"),
        _seconds("range_from", "Where in the file to begin (s)", minimum=0, default=0),
        _seconds("range_to", "Where in the file to end (s); at its end by default", exclusive_minimum=0),
    ]
    if technology in CAPPED:
        parameters.append(_seconds("max_speech_length", "How much speech of each channel is enough (s)", exclusive_minimum=0))
    return parameters


def _plain(schema: Mapping[str, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON Schema with what it refers to put in its place; it must not refer to itself."""
    if (reference := schema.get("$ref")) is not None:
        return _plain(components[str(reference).rpartition("/")[2]], components)
    return {name: _inside(value, components) for name, value in schema.items()}


def _inside(value: Any, components: Mapping[str, Any]) -> Any:  # noqa: ANN401  # JSON
    if isinstance(value, Mapping):
        return _plain(value, components)
    return [_inside(each, components) for each in value] if isinstance(value, list) else value


def _config_schema(technology: Technology) -> Schema:
    """The form's `config`, as `media_requests` reads it."""
    [schema], components = msgspec.json.schema_components([CONFIGS[technology]])
    plain = _plain(schema, components)
    return Schema(
        type=OpenAPIType.OBJECT,
        properties=plain["properties"],
        additional_properties=False,
        description=plain["description"],
    )


def media_operation(technology: Technology) -> type[Operation]:
    """A POST of a media file."""
    file = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY, description="WAV, FLAC, Ogg or MP3")
    schema = Schema(type=OpenAPIType.OBJECT, required=[FILE], properties={FILE: file, CONFIG: _config_schema(technology)})
    parts = {CONFIG: Encoding(content_type=JSON_TYPE)}

    @dataclass
    class MediaOperation(DescribedOperation):
        def __post_init__(self) -> None:
            super().__post_init__()
            self.parameters = [*(self.parameters or []), *_media_parameters(technology)]
            self.request_body = RequestBody(content={FORM_TYPE: OpenAPIMediaType(schema=schema, encoding=parts)}, required=True)

    return MediaOperation
