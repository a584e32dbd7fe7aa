"""A worker's health over HTTP: /health, /ready and /metrics."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pipeline.runner import StageRunner
from pipeline.settings import Settings
from pipeline.stage import Counting

logger = logging.getLogger(__name__)

_AGES_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


_COUNTERS = {
    "records": "Records that the agent was given, those that came again with the others",
    "dead_letters": "Records that the agent buried, those that came again with the others",
    "drafts_begun": "Drafts that models heard",
    "drafts_used": "Drafts whose utterance then ended as they did",
}
_GAUGES = {
    "unacknowledged": "Records whose offsets are held",
    "dead_letter_streak": "Calls with buried records since the last good record",
    "dead_letter_window": "Buried records among the last ones",
    "breaker_open": "1 when the agent has buried too much, and does nothing more",
}


class _Told(Collector):
    """What the runners say of themselves at the time that they are asked."""

    def __init__(self, runners: Sequence[StageRunner]) -> None:
        self._runners = runners

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """A family for each name, with a sample for each agent that counts it."""
        told = {runner.stage.name: _counts(runner) for runner in self._runners}
        for name in sorted({name for counts in told.values() for name in counts}):
            kind = GaugeMetricFamily if name in _GAUGES else CounterMetricFamily
            text = (_GAUGES | _COUNTERS).get(name, f"{name} of an agent")
            family = kind(f"callstream_{name}", text, labels=["agent"])
            for agent, counts in told.items():
                if name in counts:
                    family.add_metric([agent], counts[name])
            yield family


def _counts(runner: StageRunner) -> Mapping[str, int]:
    own = runner.stage.counts() if isinstance(runner.stage, Counting) else {}
    return {
        "records": runner.records_count,
        "dead_letters": runner.dead_letters_count,
        "dead_letter_streak": runner.breaker.streak_count,
        "dead_letter_window": runner.breaker.buried_count,
        "breaker_open": int(runner.breaker.is_open),
        "unacknowledged": runner.unacknowledged(),
        **own,
    }


class HealthServer:
    """Serves what the runners say of themselves, also one time after the other; nothing when the port is 0."""

    def __init__(self, runners: Sequence[StageRunner], settings: Settings) -> None:
        """Takes the port. Raises OSError with one line that says what to change."""
        self._runners = runners
        self._listener = _listener(settings) if settings.worker_port else None
        self._runner: web.AppRunner | None = None
        self._registry = CollectorRegistry()
        self._registry.register(_Told(runners))
        ProcessCollector(registry=self._registry)
        text = "How old a record was, by its timestamp, when an agent had dealt with it"
        self._ages = Histogram("callstream_record_age_seconds", text, ["agent"], registry=self._registry, buckets=_AGES_S)

    async def start(self) -> None:
        """Answer."""
        if self._listener is None:
            return
        for runner in self._runners:
            runner.observe_age = self._ages.labels(runner.stage.name).observe
        app = web.Application()
        app.add_routes([web.get("/health", self._health), web.get("/ready", self._ready), web.get("/metrics", self._metrics)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.SockSite(self._runner, self._listener.dup()).start()  # which it closes

    async def stop(self) -> None:
        """Stop answering."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "up"})

    async def _ready(self, _request: web.Request) -> web.Response:
        agents = {runner.stage.name: runner.is_ready() for runner in self._runners}
        body = msgspec.json.encode({"ready": all(agents.values()), "agents": agents})
        return web.Response(body=body, content_type="application/json", status=200 if all(agents.values()) else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _listener(settings: Settings) -> socket.socket:
    host, port = settings.worker_host, settings.worker_port
    try:
        return socket.create_server((host, port), family=_family(host), dualstack_ipv6=host == "::")
    except OSError as error:
        advice = "choose another CALLSTREAM_WORKER_HOST or CALLSTREAM_WORKER_PORT; each worker of a machine needs its own"
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error  # names that lead nowhere count down
        raise OSError(f"cannot listen on {host}:{port} ({why}): {advice}") from error
