"""Faust apps: one per agent, so that each agent is a consumer group of its own and scales by itself."""

import asyncio
import gc
import logging
import signal
import threading
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

import mode
from mode.utils.loops import get_event_loop

from pipeline import watchdog
from pipeline.connection import faust_credentials
from pipeline.consumer import NoTables, StageApp
from pipeline.delivery import describe_error
from pipeline.header_names import tolerate
from pipeline.health import HealthServer
from pipeline.membership import Lease
from pipeline.models.errors import ModelError
from pipeline.runner import StageRunner
from pipeline.settings import Settings
from pipeline.topics import MAX_DEAD_LETTER_BYTES
from pipeline.whole_topic import LOOK_ROUND_MS

logger = logging.getLogger(__name__)

# A terminal that is closed, too, unless nohup(1) or a shell has said that it does not matter.
END_SIGNALS = {signal.SIGINT, signal.SIGTERM} | (
    {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else set()
)
ENTRY_POINTS = "callstream.agents"
_HEARTBEATS = 10  # in a session timeout
_REBALANCE_S = 30.0
# aiokafka leaves the group when nothing is fetched for so long, and then waits for a fetch before it joins again: for ever.
_MAX_STANDSTILL_S = 10 * 365 * 86_400.0
_LAST_TURNS_S = 0.1


class UnknownAgentError(Exception):
    """There is no agent of this name."""


def installed_agents() -> dict[str, EntryPoint]:
    """The installed agents by name: entry points, so that the frame imports none of them."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def build_app(name: str, settings: Settings) -> StageApp:
    """A Faust app for one agent; its name is the consumer group."""
    tolerate()
    app = StageApp(
        f"{settings.topic_prefix}callstream-{name}",
        broker=[f"kafka://{server.strip()}" for server in settings.broker.split(",")],
        broker_credentials=faust_credentials(settings),
        version=1,
        key_serializer="raw",
        value_serializer="raw",
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        producer_acks=-1,
        producer_linger_ms=0,
        producer_max_request_size=MAX_DEAD_LETTER_BYTES + 1_048_576,
        producer_request_timeout=30.0,
        consumer_max_fetch_size=4 * 1_048_576,
        consumer_metadata_max_age_ms=LOOK_ROUND_MS,
        producer_metadata_max_age_ms=LOOK_ROUND_MS,
        broker_commit_interval=0.5,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / _HEARTBEATS,
        broker_request_timeout=max(30.0, settings.session_timeout_s),  # Faust refuses a shorter one
        broker_rebalance_timeout=settings.grace_period_s + _REBALANCE_S,  # a member finishes its work before it joins again
        broker_max_poll_interval=_MAX_STANDSTILL_S,
        # The window drains by itself at each hand-over; Faust would wait for records that are held on purpose.
        stream_wait_empty=False,
        loghandlers=[],
        TableManager=NoTables,
    )
    app.lease = Lease(settings.session_timeout_s, app.conf.id)
    return app


class CallstreamWorker(mode.Worker):
    """Runs several stages, each on its own app, in one process."""

    def __init__(self, runners: Sequence[StageRunner], settings: Settings, health: HealthServer) -> None:
        self.runners, self.health = runners, health
        self.has_ended = threading.Event()  # and the process goes on
        self.was_asked_to_end = False  # by a signal, not by a stage of its own
        self.start_error: ModelError | None = None
        for runner in runners:
            runner.end_worker = self._end
        self._settings = settings
        # mode keeps a loop of its own from before any loop ran; its services must all live on that one.
        super().__init__(quiet=True, override_logging=False, redirect_stdouts=False, loop=get_event_loop())

    def _end(self) -> None:
        """As at a signal: every stage of the process hands over in order."""
        super()._schedule_shutdown(signal.SIGTERM)

    def _install_signal_handlers_unix(self) -> None:
        super()._install_signal_handlers_unix()
        for number in END_SIGNALS - {signal.SIGINT, signal.SIGTERM}:
            self.loop.add_signal_handler(number, self._schedule_shutdown, number)

    def _schedule_shutdown(self, number: signal.Signals) -> None:
        self.was_asked_to_end = True
        super()._schedule_shutdown(number)

    async def on_first_start(self) -> None:
        """Load the stages before any record is read, then start the apps side by side."""
        await super().on_first_start()
        await self.health.start()
        try:
            await asyncio.gather(*(runner.stage.start(runner) for runner in self.runners))
        except ModelError as error:
            self.start_error = error
            raise asyncio.CancelledError from None  # which alone mode does not log with its traceback
        _spare_the_collector()
        # Before the apps: one that may not join its group never finishes starting.
        watchdog.start(self.runners, self._settings, asyncio.get_running_loop(), self.has_ended)
        await asyncio.gather(*(self.add_runtime_dependency(runner.app) for runner in self.runners))

    async def on_stop(self) -> None:
        """Let all agents hand over side by side: one that waits for a disk or a broker must not take the others' time."""
        await super().on_stop()
        ended = await asyncio.gather(*(runner.app.stop() for runner in self.runners), return_exceptions=True)
        for runner, error in zip(self.runners, ended, strict=True):
            if isinstance(error, BaseException):
                logger.error("agent %s did not end in order: %s", runner.stage.name, describe_error(error))

    async def _sentinel_task(self) -> None:
        """Let what was cancelled end before the loop is closed. All has handed over by now; mode would sleep for a second."""
        await asyncio.sleep(_LAST_TURNS_S)

    async def on_shutdown(self) -> None:
        """Let go of everything; the apps have handed over by now."""
        await super().on_shutdown()
        await self.health.stop()
        for runner in self.runners:
            await runner.stage.stop()


def _spare_the_collector() -> None:
    """Never look for garbage in modules and models: to go through them stops every call for 30 ms."""
    gc.collect()
    gc.freeze()
