"""The query service's parts, and its ASGI application (Litestar, https://docs.litestar.dev/2/)."""

import asyncio
import contextlib
import logging
import math
import sqlite3
from collections.abc import AsyncIterator
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path

from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ASGIApp
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipeline.query import errors
from pipeline.query.edge import Edge, ids_of
from pipeline.query.events import Hub
from pipeline.query.follower import Follower
from pipeline.query.gate import Gate
from pipeline.query.keeper import Keeper
from pipeline.query.keys import Keyring
from pipeline.query.metrics import QueryMetrics
from pipeline.query.open_tasks import OpenTasks
from pipeline.query.openapi import TruePlugin
from pipeline.query.push import Waits
from pipeline.query.routes import events_route, technology_routes
from pipeline.query.starter import Starter
from pipeline.query.tasks import Tasks
from pipeline.query.view import View
from pipeline.settings import Settings
from schemas.http import Health, Readiness

logger = logging.getLogger(__name__)

SWEEP_EVERY_MAX_S = 60.0
OK = "ok"
_GONE = "client disconnected prematurely"  # as Litestar words it
METRICS_TYPE = CONTENT_TYPE_LATEST.removesuffix("; charset=utf-8")  # Litestar adds it again

AnyRequest = Request[object, object, State]


class Service:
    """Everything the routes need. `run` keeps the view up to date until cancelled; `close` ends it."""

    def __init__(self, settings: Settings, keyring: Keyring | None = None) -> None:
        """Opens the view. Raises OSError, sqlite3.Error or ViewLockedError when it cannot be used, KeysError."""
        self.settings = settings
        self.keyring = keyring or Keyring(settings)
        self.gate = Gate(settings, self.keyring)
        self.metrics = QueryMetrics()
        self.view = View(Path(settings.data_dir), settings.task_ttl_s)
        self.hub = Hub(settings.task_ttl_s, owner_of=self.view.owner_of)
        self.keyring.on_change = self._recheck
        self.follower = Follower(settings, self.view, self.metrics, self.hub)
        self.waits = Waits(self.hub, self.view)
        self.starter = Starter(settings)
        self.keeper = Keeper(settings, self.view)
        self.open_tasks = OpenTasks(settings, self.view, self.keyring)
        known = self.follower.until_complete
        self.tasks = Tasks(settings, self.view, self.starter, self.keeper, self.metrics, self.open_tasks, known)
        self.work: asyncio.Task[None] | None = None
        self.blobs_problem: str | None = None

    def _recheck(self) -> None:
        self.gate.recheck()
        self.hub.recheck()

    async def run(self) -> None:
        """Follows the topic and sweeps the view; ends only with a fault of ours."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.follower.run())
            group.create_task(self._sweep_for_ever())
            group.create_task(self._keep_blobs())

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(min(SWEEP_EVERY_MAX_S, self.settings.task_ttl_s))
            try:
                await self.view.aside(self.view.check_writable)
                if await self.view.aside(self.view.sweep):
                    self.hub.stir()
            except sqlite3.Error as error:  # expired rows are not shown anyway; /ready says that nothing can be written
                logger.warning("the view cannot be swept for now: %s", error)

    async def _keep_blobs(self) -> None:
        """Measures the blob store, and deletes what no task needs once the view knows all tasks."""
        while True:
            try:
                if self.follower.is_current:
                    await self.keeper.sweep(lambda: self.follower.is_current)
                else:
                    await self.keeper.measure()
                self.blobs_problem = None
            except (OSError, sqlite3.Error) as error:
                self.blobs_problem = f"blob store: {error}"
                logger.warning("the blob store cannot be swept for now: %s", error)
            await asyncio.sleep(min(SWEEP_EVERY_MAX_S, self.settings.task_ttl_s, max(1.0, self.settings.blob_grace_s)))

    async def readiness(self) -> Readiness:
        """What `GET /ready` says."""
        checks = {
            "kafka": self.follower.problem or OK,
            "store": self.blobs_problem or OK,
            "view": self.follower.view_problem or OK,
        }
        try:
            await self.view.aside(self.view.check_writable)
        except sqlite3.Error as error:
            checks["view"] = f"cannot be written: {error}"
        if checks["view"] == OK and not self.follower.caught_up:
            checks["view"] = "not caught up with the results topic yet"
        return Readiness(all(check == OK for check in checks.values()), checks)

    async def close(self) -> None:
        """Lets go who still waits, ends the producer and closes the view."""
        self.hub.close()
        await self.starter.close()
        self.view.close()


@contextlib.asynccontextmanager
async def running(settings: Settings, keyring: Keyring | None = None) -> AsyncIterator[Service]:
    """The service with its background work; `service.work` ends early only with a fault of ours."""
    service = Service(settings, keyring)
    service.work = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        service.work.cancel()
        with contextlib.suppress(asyncio.CancelledError, ExceptionGroup):
            await service.work
        await service.close()


def _health_routes(service: Service) -> list[HTTPRouteHandler]:
    @get("/health", name="health", description="The process is up.")
    async def health() -> Health:
        return Health()

    @get(
        "/ready",
        name="ready",
        description="Kafka and the store can be reached, the view has caught up; 503 otherwise.",
        responses={503: ResponseSpec(Readiness, description="Not ready; `checks` say why", generate_examples=False)},
    )
    async def ready() -> Response[Readiness]:
        readiness = await service.readiness()
        return Response(readiness, status_code=HTTPStatus.OK if readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE)

    @get("/metrics", name="metrics", description="Prometheus text format.", media_type=METRICS_TYPE)
    async def metrics() -> Response[bytes]:
        service.metrics.listeners.set(service.hub.listeners)
        try:
            service.metrics.tasks.set(await service.view.aside(service.view.count))
        except sqlite3.Error:  # which `/ready` tells; the other metrics are asked for all the more
            service.metrics.tasks.set(math.nan)
        return Response(generate_latest(service.metrics.registry), media_type=METRICS_TYPE)

    return [health, ready, metrics]


def _response(refusal: errors.RequestRefusedError) -> Response[bytes]:
    return Response(refusal.body, status_code=refusal.status, media_type=errors.JSON_TYPE, headers=refusal.headers)


def _on_refusal(_: AnyRequest, refusal: errors.RequestRefusedError) -> Response[bytes]:
    return _response(refusal)


def _on_fault(request: AnyRequest, error: Exception) -> Response[bytes]:
    logger.error("request %s met a fault", ids_of(request.scope).request_id, exc_info=error)
    return _response(errors.internal())


def _on_http_exception(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    """Litestar's own refusals in our envelope."""
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            return _response(errors.resource_not_found())
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return _response(errors.method_invalid(error.headers or {}))
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return _response(errors.body_too_large(request.app.state.max_body_bytes))
        case HTTPStatus.BAD_REQUEST:
            return _response(errors.request_invalid())
        case _ if error.detail == _GONE:
            return _response(errors.request_invalid())  # to nobody
        case _:
            return _on_fault(request, error)


def create_app(service: Service) -> ASGIApp:
    """The ASGI application; it has no lifespan of its own, see `running`."""
    settings = service.settings
    app = Litestar(
        route_handlers=[
            *technology_routes(service.tasks, service.waits, settings),
            events_route(service.hub, service.view),
            *_health_routes(service),
        ],
        exception_handlers={
            errors.RequestRefusedError: _on_refusal,
            HTTPException: _on_http_exception,
            Exception: _on_fault,
        },
        openapi_config=OpenAPIConfig(
            title="callstream",
            version=version("callstream"),
            description="The transitions of a call's tasks as they happen: GET /api/events?call_id=ID, as server-sent events.",
            path="/schema",
            render_plugins=[TruePlugin(path="/", has_keys=not service.keyring.is_empty)],
            components=Components(security_schemes={"key": SecurityScheme(type="http", scheme="bearer")}),
            security=None if service.keyring.is_empty else [{"key": []}],
        ),
        state=State({"max_body_bytes": settings.max_body_bytes}),
        logging_config=None,
    )
    return Edge(app, service.metrics, service.gate)
