"""Calls for benchmarks, with as much speech as is wanted; and what they take without Kafka and Faust, the limit."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from agents.extraction_call import ExtractionCall
from agents.extractor import extract
from pipeline.audio.listener import CallListener, HeardUtterance
from pipeline.audio.segments import SegmentLog
from pipeline.models.detector import load_vad
from pipeline.models.models import ModelSet
from pipeline.sample import sample_path
from pipeline.scoring.language_scorer import LanguageScorer
from pipeline.settings import Settings
from pipeline.wanted import needs_of
from schemas.media import AudioFormat, CallOptions
from schemas.stream import CallBegin, Utterance

Frames = npt.NDArray[np.int16]
RATE_HZ = 8000
FORMAT = AudioFormat(sample_rate_hz=RATE_HZ, channels=2)
DEFAULTS = CallOptions()


class Shape(NamedTuple):
    """What calls are like: their length, the share of speech in each channel, and how much audio a record holds."""

    seconds: float
    speech: float
    chunk_ms: int


class Track:
    """Endless audio with as much speech as is wanted: the bundled call, again and again, with pauses."""

    def __init__(self, settings: Settings, shape: Shape) -> None:
        self.shape = shape
        frames = np.asarray(soundfile.read(sample_path(), dtype="int16", always_2d=True)[0], np.int16)
        self.silero = load_vad(settings.cache_dir, settings.manifest_path)
        heard = [one for one in self.listen(frames) if isinstance(one, HeardUtterance)]
        speech = sum(one.span.end_sample - one.span.start_sample for one in heard) / 2
        pause = max(0, round(speech / shape.speech) - len(frames)) if shape.speech else 0
        self._frames: Frames = np.concatenate([frames, np.zeros((pause, 2), np.int16)])
        if not shape.speech:
            self._frames = np.zeros((8000, 2), np.int16)

    def listen(self, frames: Frames) -> Iterator[Any]:
        """What voice activity detection hears in a call, chunk by chunk."""
        listener, step = CallListener(FORMAT, self.silero), 8 * self.shape.chunk_ms
        for at in range(0, len(frames), step):
            yield from listener.feed(frames[at : at + step].astype("<i2").tobytes())
        yield from listener.finish()

    def of_call(self, number: int) -> Frames:
        """Another begin for each call, drawn: with one that follows from its number, calls would say the same at once."""
        begin = int(np.random.default_rng(number).integers(len(self._frames)))
        return np.take(self._frames, np.arange(begin, begin + round(self.shape.seconds * 8000)), axis=0, mode="wrap")


def limit_cpu_s(
    models: ModelSet, settings: Settings, track: Track, options: CallOptions = DEFAULTS, numbers: Sequence[int] = (0,)
) -> float:
    """CPU seconds per second of call, without Kafka and Faust: detection, and the models on what is wanted."""
    taken_s = 0.0
    for number in numbers:
        frames = track.of_call(number)  # which is no part of the limit
        began_s = time.thread_time()
        hear(models, settings, options, track.listen(frames))
        taken_s += time.thread_time() - began_s
    return taken_s / (track.shape.seconds * len(numbers))


def longest_cpu_s(models: ModelSet, track: Track) -> float:
    """CPU seconds of all models on the longest utterance of a call, which nothing that comes of it can be faster than."""
    heard = [one for one in track.listen(track.of_call(0)) if isinstance(one, HeardUtterance)]
    if not heard:
        return 0.0
    longest = max(heard, key=lambda one: len(one.audio))
    span = longest.span
    utterance = Utterance("c", 0, span.start_sample, span.end_sample, RATE_HZ, longest.audio.astype("<i2").tobytes())
    extract(models, utterance)
    began_s = time.thread_time()
    extract(models, utterance)
    return time.thread_time() - began_s


def hear(models: ModelSet, settings: Settings, options: CallOptions, said: Iterable[object]) -> None:
    """What a worker's models hear of all that detection said of a two-channel call: no more than is wanted."""
    needs, segments = needs_of(options, settings), SegmentLog(FORMAT, RATE_HZ)
    call = ExtractionCall(CallBegin("c", 2, options, ""), LanguageScorer(settings))
    for one in said:
        if isinstance(one, HeardUtterance):
            wanted, span = needs.of_utterance(segments.speech_ms(one.channel)), one.span
            segments.add(one.channel, span)
            audio = one.audio.astype("<i2").tobytes()
            utterance = Utterance("c", one.channel, span.start_sample, span.end_sample, RATE_HZ, audio, *wanted)
            call.add(utterance, extract(models, utterance, call.wants_language(utterance)).languages)
