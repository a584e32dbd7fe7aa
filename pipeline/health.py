"""A worker's health over HTTP: /health, /ready and /metrics, on loopback."""

import logging
from collections.abc import Sequence

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from pipeline.runner import StageRunner
from pipeline.settings import Settings

logger = logging.getLogger(__name__)

_HOST = "127.0.0.1"


class HealthServer:
    """Serves what the runners say of themselves; not started when the port is 0."""

    def __init__(self, runners: Sequence[StageRunner], settings: Settings) -> None:
        self._runners = runners
        self._port = settings.worker_port
        self._runner: web.AppRunner | None = None
        self._registry = CollectorRegistry()
        names = ("records", "dead_letters", "dead_letter_streak", "unacknowledged")
        self._gauges = {
            name: Gauge(f"callstream_{name}", f"{name} of an agent", ["agent"], registry=self._registry) for name in names
        }

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        if self._port == 0:
            return
        app = web.Application()
        app.add_routes([web.get("/health", self._health), web.get("/ready", self._ready), web.get("/metrics", self._metrics)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, _HOST, self._port).start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "up"})

    async def _ready(self, _request: web.Request) -> web.Response:
        agents = {runner.stage.name: runner.is_ready() for runner in self._runners}
        body = msgspec.json.encode({"ready": all(agents.values()), "agents": agents})
        return web.Response(body=body, content_type="application/json", status=200 if all(agents.values()) else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        for runner in self._runners:
            name = runner.stage.name
            self._gauges["records"].labels(name).set(runner.records_count)
            self._gauges["dead_letters"].labels(name).set(runner.dead_letters_count)
            self._gauges["dead_letter_streak"].labels(name).set(runner.breaker.streak_count)
            self._gauges["unacknowledged"].labels(name).set(runner.unacknowledged())
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
