"""`callstream worker`: the agents of one process."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Iterable, Sequence

import stamina
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from pipeline.app import END_SIGNALS, CallstreamWorker, UnknownAgentError, build_app, installed_agents
from pipeline.breaker import EXIT_BREAKER
from pipeline.delivery import describe_error
from pipeline.health import HealthServer
from pipeline.last_resort import end_within
from pipeline.logs import log_to_stderr
from pipeline.models.manifest import load_manifest
from pipeline.refusal import BrokerRefusedError
from pipeline.runner import StageRunner
from pipeline.settings import Settings
from pipeline.topics import KEPT_TOGETHER, TOPICS, TopicsError
from pipeline.watchdog import LAST_WORDS_S
from pipeline.whole_topic import partition_numbers

logger = logging.getLogger(__name__)


def chosen_runners(names: Sequence[str], settings: Settings) -> list[StageRunner]:
    """A runner for each stage of the named agents. Raises UnknownAgentError."""
    installed = installed_agents()
    unknown = [name for name in names if name not in installed]
    if unknown:
        raise UnknownAgentError(f"no agent is called {', '.join(unknown)}; there are {', '.join(sorted(installed))}")
    stages = [stage for name in dict.fromkeys(names) for stage in installed[name].load()(settings)]
    apps = [build_app(stage.name, settings) for stage in stages]
    return [StageRunner(app, stage, settings, app.lease) for app, stage in zip(apps, stages, strict=True)]


async def wait_for_topics(settings: Settings, names: Iterable[str]) -> None:
    """Wait until a broker answers and holds these topics; say what is lacking each time.

    Raises TopicsError, and BrokerRefusedError: a password that is wrong does not get right by waiting.
    """
    async for attempt in stamina.retry_context(on=_may_pass, attempts=None, timeout=None, wait_max=5.0):
        with attempt:
            try:
                counts = await _partitions(settings, names)
            except (KafkaError, OSError) as error:
                if not _may_pass(error):
                    raise
                logger.warning("waiting for %s: %s", settings.broker, describe_error(error))
                raise
    wrong = [f"{name} has {counts[name]}" for name in KEPT_TOGETHER if counts[name] != counts["media"]]
    if wrong:
        message = f"a call keeps its partition's number, and media has {counts['media']} partitions: {', '.join(wrong)}"
        raise TopicsError(f"{message}; give them as many, when no call is under way")


def _may_pass(error: Exception) -> bool:
    return isinstance(error, KafkaError | OSError) and not isinstance(error, BrokerRefusedError)


async def _partitions(settings: Settings, names: Iterable[str]) -> dict[str, int]:
    """How many partitions each has. Raises UnknownTopicOrPartitionError, and KafkaError when no broker answers."""
    known = await partition_numbers(settings)
    counts = {name: len(known.get(settings.topic(name), ())) for name in names}
    if missing := [settings.topic(name) for name, count in counts.items() if not count]:
        raise UnknownTopicOrPartitionError(f"{', '.join(missing)} missing; `callstream topics` creates what is")
    return counts


async def _until(health: HealthServer, work: Awaitable[None]) -> bool:
    """Does this while the worker's health can be asked for; False when the process was asked to end first."""
    doing, asked = asyncio.ensure_future(work), asyncio.Event()

    def ask() -> None:
        asked.set()
        doing.cancel()

    for number in END_SIGNALS:  # process 1 of a container has no default for them
        asyncio.get_running_loop().add_signal_handler(number, ask)
    await health.start()
    try:
        await doing
    except asyncio.CancelledError:
        if not asked.is_set():
            raise
    finally:
        await health.stop()
    return not asked.is_set()


async def _for_ever() -> None:
    logger.critical("this worker does nothing more until it is asked to end (CALLSTREAM_DEAD_LETTER_HOLD)")
    await asyncio.Event().wait()


def run(names: Sequence[str], settings: Settings) -> int:
    """Run the agents until SIGTERM or SIGINT.

    The exit code is 0 when the process was asked to end, EXIT_BREAKER when a stage buried too much, and 1 for a fault.
    Raises UnknownAgentError, ProfileError, ModelError, TopicsError and BrokerRefusedError where it cannot start.
    """
    log_to_stderr(settings)
    load_manifest(settings.manifest_path)  # or a wrong one is told only when Kafka answers
    runners = chosen_runners(names, settings)
    try:
        health = HealthServer(runners, settings)
    except OSError as error:
        sys.stderr.write(f"callstream worker: {error}\n")
        return 1
    if not asyncio.run(_until(health, wait_for_topics(settings, [topic.name for topic in TOPICS]))):
        return 0
    worker = CallstreamWorker(runners, settings, health)
    code = _execute(worker)
    if worker.start_error is not None:
        raise worker.start_error
    if any(runner.breaker.is_open for runner in runners):
        if settings.dead_letter_hold and not worker.was_asked_to_end:
            worker.has_ended.set()
            asyncio.run(_until(health, _for_ever()))
            end_within(LAST_WORDS_S, EXIT_BREAKER, "the worker")  # its watchdog has ended with the agents
        return EXIT_BREAKER
    return code


def _execute(worker: CallstreamWorker) -> int:
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
