"""Starts a broker, the agents and the query service, streams calls, and follows them to their last state."""

import asyncio
import contextlib
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import msgspec
from rich.console import Console
from rich.live import Live
from rich.markup import escape

from pipeline.broker.errors import BrokerError
from pipeline.broker.launch import open_broker
from pipeline.broker.process import GuardedProcess
from pipeline.cancellation import stop_consumer
from pipeline.demo.client import QueryClient
from pipeline.demo.progress import CallProgress, progress_table
from pipeline.demo.summary import channel_table, comparison_table, print_answers
from pipeline.models.errors import ModelError, ModelsManifestError
from pipeline.models.manifest import load_manifest
from pipeline.models.registry import fetch
from pipeline.query.server import serving
from pipeline.sample import sample_path
from pipeline.sending import CallSender, SendError, SendOptions, default_call_id, known_task_ids, shown
from pipeline.settings import Settings
from pipeline.topics import TopicsError, create_topics, partition_counts
from pipeline.watching import WatchError, open_results, read_transitions
from schemas.tasks import Technology

_LOCAL = {"host": "127.0.0.1", "api_keys": "", "api_keys_file": "", "tls_cert_file": "", "tls_key_file": "", "open_tasks": 0}
_GRACE_S = 8.0
_LAST_LINES = 15
_WIDTH_ELSEWHERE = 120  # columns, where there is no terminal to ask


class DemoError(Exception):
    """The demo cannot go on; one line says why."""


class Demo:
    """One run of the demo."""

    def __init__(self, settings: Settings, files: Sequence[Path], *, realtime: bool, as_json: bool) -> None:
        self.settings = settings
        self.files = files or [sample_path()]
        self.realtime = realtime
        self.as_json = as_json
        self.console = Console(stderr=as_json)
        if not self.console.is_terminal:
            self.console.width = _WIDTH_ELSEWHERE
        self.calls: dict[str, CallProgress] = {}
        self.worker: GuardedProcess | None = None
        self._started_s = time.monotonic()

    def say(self, text: str) -> None:
        """One line with the seconds since the start."""
        line = f"[dim]{time.monotonic() - self._started_s:5.1f} s[/] {escape(text)}"
        self.console.print(line, highlight=False, soft_wrap=True)

    def check_worker(self) -> None:
        """Raises DemoError when the worker has ended."""
        if self.worker is not None and (code := self.worker.wait(0)) is not None:
            raise DemoError(f"the worker has ended with exit code {code}; the last lines that it wrote:")

    def emit(self, line: bytes) -> None:
        """One JSON object on stdout."""
        if self.as_json:
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()


@contextlib.contextmanager
def _backend(demo: Demo, folder: Path) -> Iterator[Settings]:
    """A broker with topics, and a worker; the settings to reach them."""
    settings = demo.settings
    with ThreadPoolExecutor(1) as pool:
        manifest = load_manifest(settings.manifest_path)
        models = pool.submit(
            fetch,
            settings.cache_dir,
            on_progress=lambda step: demo.say(f"models: {step.stage.value} {step.name}"),
            manifest=manifest,
            language_size=settings.language_model,
        )
        broker = open_broker(settings.cache_dir, on_progress=demo.say, topics=partition_counts(settings))
        with broker:
            demo.say(f"broker: ready at {broker.bootstrap}")
            here = msgspec.structs.replace(
                settings,
                broker=broker.bootstrap,
                kafka_security="PLAINTEXT",
                data_dir=str(folder / "view"),
                port=_free_port(settings.port),
                **_LOCAL,
            )
            asyncio.run(create_topics(here))
            models.result()
            with _worker(here, folder) as demo.worker:
                yield here


@contextlib.contextmanager
def _worker(settings: Settings, folder: Path) -> Iterator[GuardedProcess]:
    changed = {"BROKER": settings.broker, "KAFKA_SECURITY": settings.kafka_security, "DATA_DIR": settings.data_dir}
    environment = [f"CALLSTREAM_{name}={value}" for name, value in changed.items()]
    worker = GuardedProcess()
    log = folder / "worker.log"
    try:
        command = ["env", *environment, sys.executable, "-P", "-m", "pipeline.cli", "worker"]
        worker.start(command, log, Path.cwd())  # paths in settings are of there
        yield worker
        worker.stop(_GRACE_S)
    except DemoError as error:
        lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:] if log.exists() else []
        raise DemoError("\n".join([str(error), *lines])) from None
    finally:
        worker.close()


def _free_port(wanted: int) -> int:
    """The wanted port when it is free, else 0 for any."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
    return wanted


async def _send(demo: Demo, settings: Settings) -> None:
    async with CallSender(settings) as sender:
        for path in demo.files:
            call_id = default_call_id(path)
            call = demo.calls[call_id] = CallProgress(call_id, known_task_ids(call_id, None))
            how = SendOptions(call_id=call_id, chunk_ms=250, realtime=demo.realtime)

            def sent(seconds: float, call: CallProgress = call) -> None:
                call.sent_s = seconds

            await sender.send(path, how, sent)


async def _follow(demo: Demo, settings: Settings, sending: "asyncio.Task[None]") -> None:
    """Follow the calls until all are sent and final; show where they are."""
    consumer = await open_results(settings, from_begin=True)
    try:
        with _live(demo) as show:
            async for item in read_transitions(consumer):
                if item is not None and isinstance(item[0].call_id, str) and item[0].call_id in demo.calls:
                    demo.calls[item[0].call_id].note(item[0])
                    demo.emit(item[1])
                show()
                demo.check_worker()
                if sending.done():
                    sending.result()
                    if all(call.is_final for call in demo.calls.values()):
                        return
    finally:
        await stop_consumer(consumer)


@contextlib.contextmanager
def _live(demo: Demo) -> "Iterator[_Show]":
    if demo.as_json or not demo.console.is_terminal:
        yield _Show(demo, None)
        return
    with Live(console=demo.console, refresh_per_second=8) as live:
        yield _Show(demo, live)


class _Show:
    """Shows progress: a live table on a terminal, a line for each change elsewhere."""

    def __init__(self, demo: Demo, live: Live | None) -> None:
        self._demo = demo
        self._live = live
        self._said: dict[str, int] = {}  # final tasks, by call

    def __call__(self) -> None:
        if self._live is not None:
            self._live.update(progress_table(self._demo.calls.values()))
            return
        for call in self._demo.calls.values():
            final = sum(one.task.state.is_final for one in call.latest.values())
            if self._said.get(call.call_id) == final:
                continue
            self._said[call.call_id] = final
            line = f"call {call.call_id}: {call.sent_s:.0f} s of audio in, {final} of {len(call.expected)} tasks final"
            self._demo.say(f"{line}, {call.speech_s:.1f} s of speech found")


async def _stream(demo: Demo, settings: Settings) -> None:
    sending = asyncio.create_task(_send(demo, settings))
    try:
        await _follow(demo, settings, sending)
    finally:
        sending.cancel()


async def _report(demo: Demo, client: QueryClient) -> None:
    """Ask the query service for every task, then let it compare the voices; print what it answers."""
    for call in demo.calls.values():
        pairs = {technology: await client.get(technology, one.task.task_id) for technology, one in call.latest.items()}
        for url, body in pairs.values():
            demo.emit(msgspec.json.encode({"url": url, "answer": msgspec.Raw(body)}))
        answers = {technology: msgspec.json.decode(body) for technology, (_, body) in pairs.items()}
        if not demo.as_json:
            demo.console.print(channel_table(call.call_id, answers))
        await _compare(demo, client, answers.get(Technology.VOICEPRINT_EXTRACTION, {}))
        if not demo.as_json:
            print_answers(demo.console, list(pairs.values()))


async def _compare(demo: Demo, client: QueryClient, extraction: dict[str, dict[str, list[dict[str, object]]]]) -> None:
    spoken = [channel for channel in (extraction.get("result") or {}).get("channels", []) if channel["speech_length"]]
    if not spoken:
        return
    voiceprints = [channel["voiceprint"] for channel in spoken]
    url, body = await client.post_and_wait(
        Technology.VOICEPRINT_COMPARISON, {"voiceprints_a": voiceprints, "voiceprints_b": voiceprints}
    )
    demo.emit(msgspec.json.encode({"url": url, "answer": msgspec.Raw(body)}))
    if not demo.as_json:
        scores = msgspec.json.decode(body)["result"]["scores"]
        demo.console.print(comparison_table([f"channel {channel['channel_number']}" for channel in spoken], scores))
        print_answers(demo.console, [(url, body)])


@contextlib.asynccontextmanager
async def _query(demo: Demo, settings: Settings) -> AsyncIterator[QueryClient]:
    async with serving(settings) as listening, QueryClient(listening.url) as client:
        demo.say(f"query service: listening on {listening.url}")
        yield client


async def _run(demo: Demo, settings: Settings, *, keep: bool) -> int:
    async with _query(demo, settings) as client:
        demo.say(f"streaming {', '.join(shown(path) for path in demo.files)}")
        await _stream(demo, settings)
        audio_s = sum(call.sent_s for call in demo.calls.values())
        demo.say(f"all tasks are final: {audio_s:.1f} s of audio")
        await _report(demo, client)
        if keep:
            demo.say(f"everything stays up until Ctrl-C: CALLSTREAM_BROKER={settings.broker}, {client.url}/api/technology/…")
            await asyncio.Event().wait()
    return 0 if all(call.is_done for call in demo.calls.values()) else 1


def run_demo(settings: Settings, files: Sequence[Path], *, keep: bool, realtime: bool, as_json: bool) -> int:
    """Run the demo; 0 when all tasks are done, 1 when one is not or something cannot be started. Leaves nothing running."""
    demo = Demo(settings, files, realtime=realtime, as_json=as_json)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell lets what it starts in the background ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="callstream-demo-") as folder, _backend(demo, Path(folder)) as here:
            return asyncio.run(_run(demo, here, keep=keep))
    except KeyboardInterrupt:
        demo.say("stopped")
        return 0 if keep and demo.calls and all(call.is_done for call in demo.calls.values()) else 1
    except ModelsManifestError:
        raise
    except (BrokerError, DemoError, ModelError, SendError, TopicsError, WatchError, aiohttp.ClientError, OSError) as error:
        demo.say(f"the demo cannot go on: {error}")
        return 1
