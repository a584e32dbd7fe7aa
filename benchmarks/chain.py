"""What a call costs: CPU per stage on one core, then the whole chain through Kafka, its latency and its memory.

    python -m benchmarks.chain [CALLS]

The call is the bundled sample (two channels, 8000 Hz); "audio" counts the call's seconds once, whatever its channels.
The limit that the chain is held against is detection and the same models on what a worker's hear of it, without Faust and
Kafka, in the same run.
A worker of all agents is pinned to one core. Latency is from the record timestamp of the chunk that closes an utterance to that
of the partial result, while one call is sent as slowly as it was spoken.
"""

import asyncio
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import msgspec
import numpy as np
import soundfile

from benchmarks.calls import DEFAULTS, hear
from benchmarks.machine import describe
from benchmarks.worker import all_records, broker_and_worker, sample_calls, send_and_wait
from pipeline.audio.listener import CallListener, HeardUtterance
from pipeline.audio.resampling import to_wide
from pipeline.models.detector import load_vad
from pipeline.sample import sample_path
from pipeline.scoring.extraction import load_models
from pipeline.settings import Settings, load
from schemas.media import AudioFormat
from schemas.results import Transition
from schemas.stream import Utterance
from schemas.tasks import Technology

VAD = Technology.VOICE_ACTIVITY_DETECTION
ROUNDS = 3


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of this thread, the least of several rounds."""

    def once() -> float:
        began_s = time.thread_time()
        work()
        return time.thread_time() - began_s

    return min(once() for _ in range(ROUNDS))


class Core:
    """The pure computation of the sample call, without Kafka."""

    def __init__(self, settings: Settings) -> None:
        frames, rate_hz = soundfile.read(sample_path(), dtype="int16", always_2d=True)
        self.audio_s = len(frames) / rate_hz
        self._audio = frames.astype("<i2").tobytes()
        self._format = AudioFormat(sample_rate_hz=rate_hz, channels=frames.shape[1])
        self._settings = settings
        self._silero = load_vad(settings.cache_dir, settings.manifest_path)
        self.models = load_models(settings)
        self.heard = self.listen()
        self.utterances = [_utterance(one) for one in self.heard]
        self.wide = [to_wide(one.audio, 8000) for one in self.heard]
        self.speech_s = sum(one.speech_s for one in self.utterances)

    def listen(self) -> list[HeardUtterance]:
        """Decoding and voice activity detection, in chunks of half a second."""
        listener = CallListener(self._format, self._silero)
        step = self._format.bytes_per_s // 2
        heard = [one for at in range(0, len(self._audio), step) for one in listener.feed(self._audio[at : at + step])]
        return [one for one in heard + listener.finish() if isinstance(one, HeardUtterance)]

    def stages(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """What is measured, by name."""
        yield "decoding and voice activity", self.listen
        yield "voiceprint (CAM++)", lambda: [self.models.speaker.embed(one) for one in self.wide]
        yield "voice (GE2E)", lambda: [self.models.voice.embed(one) for one in self.wide]
        yield "language (whisper)", lambda: [self.models.language.log_posteriors(one) for one in self.wide]

    def extraction(self) -> None:
        """All that the extraction agent computes: until it is enough."""
        hear(self.models, self._settings, DEFAULTS, self.heard)


def _utterance(heard: HeardUtterance) -> Utterance:
    span = heard.span
    return Utterance("call", heard.channel, span.start_sample, span.end_sample, 8000, heard.audio.astype("<i2").tobytes())


async def latencies_ms(settings: Settings, call_id: str) -> dict[Technology, list[float]]:
    """From the chunk that closes an utterance to each partial result that it makes."""
    sent_ms = {(r.partition, r.offset): r.timestamp for r in await all_records(settings, "media")}
    partials: dict[Technology, list[tuple[int, int, str]]] = {technology: [] for technology in Technology}
    for record in await all_records(settings, "results"):
        transition = msgspec.json.decode(record.value or b"", type=Transition)
        if transition.call_id == call_id and not isinstance(transition.partial, msgspec.UnsetType):
            source = dict(record.headers)["source"].decode()
            partials[transition.technology].append((transition.revision, record.timestamp, source))
    closed_ms = {}
    for revision, _, source in partials[VAD]:
        _, partition, offset = source.rsplit("/", 2)
        closed_ms[revision] = sent_ms[int(partition), int(offset)]
    return {
        technology: [timestamp - closed_ms[revision] for revision, timestamp, _ in found]
        for technology, found in partials.items()
        if found
    }


def report_core(core: Core) -> float:
    """Print the stages; give the CPU seconds of the whole."""
    share = core.speech_s / (2 * core.audio_s)
    print(f"sample: {core.audio_s:.1f} s, 2 channels, {len(core.heard)} utterances, {core.speech_s:.1f} s of speech", end="")
    print(f" ({share:.0%} of both channels)")
    print("\n| stage, one core | CPU s | audio s per CPU s | speech s per CPU s |\n|---|---|---|---|")
    for name, work in core.stages():
        seconds = cpu_s(work)
        print(f"| {name} | {seconds:.2f} | {core.audio_s / seconds:.0f} | {core.speech_s / seconds:.0f} |")
    whole = cpu_s(core.listen) + cpu_s(core.extraction)
    name = "all of it, without Kafka and Faust (the limit)"
    print(f"| {name} | {whole:.2f} | {core.audio_s / whole:.1f} | {core.speech_s / whole:.1f} |")
    return whole


def report_chain(settings: Settings, core: Core, limit_s: float, calls: int) -> None:
    """Run calls through Kafka and a worker; print throughput, memory and latency."""
    with broker_and_worker(settings) as (here, usage):
        asyncio.run(send_and_wait(here, sample_calls(["warm-up"], chunk_ms=250)))
        before_s = usage().cpu_s
        began_s = time.monotonic()
        asyncio.run(send_and_wait(here, sample_calls([f"call-{number}" for number in range(calls)], chunk_ms=250)))
        elapsed_s, after = time.monotonic() - began_s, usage()
        asyncio.run(send_and_wait(here, sample_calls(["live"], chunk_ms=250, realtime=True)))
        latency = asyncio.run(latencies_ms(here, "live"))
    spent_s = after.cpu_s - before_s
    print(
        f"\nchain, {calls} calls at once: {calls * core.audio_s / spent_s:.1f} audio s per CPU s, {elapsed_s:.1f} s elapsed, ",
        end="",
    )
    print(f"{spent_s / (calls * limit_s):.2f} times the CPU of the limit; peak memory of the worker {after.peak_mb:.0f} MB")
    print("\n| partial results of a live call | p50 ms | p99 ms | count |\n|---|---|---|---|")
    for technology, values in latency.items():
        print(f"| {technology.value} | {statistics.median(values):.0f} | {np.percentile(values, 99):.0f} | {len(values)} |")


def main() -> None:
    """Measure and print."""
    settings = load()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a topic that is just being made has no leader yet
    print(describe())
    core = Core(settings)
    report_chain(settings, core, report_core(core), int(sys.argv[1]) if len(sys.argv) > 1 else 8)


if __name__ == "__main__":
    main()
