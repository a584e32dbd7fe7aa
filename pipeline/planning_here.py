"""What calls cost on the machine that this runs on: the bundled call, heard part by part as a worker hears it."""

from __future__ import annotations

import functools
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import soundfile

from pipeline.audio.listener import CallListener, HeardUtterance
from pipeline.audio.resampling import to_wide
from pipeline.models.command import say_progress
from pipeline.models.errors import ModelError
from pipeline.models.execution import Provider
from pipeline.models.models import ModelSet
from pipeline.models.silero import SileroVad
from pipeline.planning import PROCESSORS, Costs
from pipeline.sample import sample_path
from pipeline.scoring.extraction import load_models
from pipeline.scoring.languages import log_posteriors_of
from pipeline.settings import Settings
from schemas.media import AudioFormat

Float32 = npt.NDArray[np.float32]
Say = Callable[[str], None]

# What is neither detection nor a model was measured with Kafka, on one machine; here it is taken to be as much slower or faster
# as detection is, which is Python and small products, too.
_LIKE: Costs = PROCESSORS["avx2"]
_OF_THE_FRAME = ("chunk_cpu_s", "utterance_cpu_s", "idle_cpu_s")
_CHUNK_MS = 250
_TIMES, _DETECTION_TIMES = 3, 10  # the least of so many is taken: other work on the machine only adds


class _Heard(NamedTuple):
    utterances: list[Float32]
    speech_s: float
    cpu_s: float


def costs_here(settings: Settings, say: Say) -> Costs:
    """CPU seconds of this machine with the models of the settings; bytes and memory are those of whisper-base, as elsewhere.

    `latest_s` is twice what all models take for the longest utterance: with one thread and 41 to 75 % of the core in use, 99 of
    100 results came within 1.2 to 1.9 times of that. Raises ModelError.
    """
    if settings.execution.provider is not Provider.CPU:
        raise ModelError("what a GPU takes is not measured: set CALLSTREAM_INFERENCE_PROVIDER=cpu")
    models = load_models(settings, say_progress)
    silero = SileroVad(models.silero_path)
    say("measuring detection on this machine")
    frames = np.asarray(soundfile.read(sample_path(), dtype="int16", always_2d=True)[0], np.int16)
    heard = min((_listen(silero, frames) for _ in range(_DETECTION_TIMES)), key=lambda one: one.cpu_s)
    if not heard.utterances:
        raise ModelError(
            "voice activity detection hears no speech in the bundled call, so models cannot be measured; correct the manifest"
        )
    detection_s = heard.cpu_s / heard.speech_s
    frame = {name: getattr(_LIKE, name) * detection_s / _LIKE.detection_cpu_s for name in _OF_THE_FRAME}
    extracted, longest_s = _extraction(models, heard, say)
    measured = {**frame, **extracted, "detection_cpu_s": detection_s, "latest_s": round(2 * longest_s, 2)}
    return msgspec.structs.replace(_LIKE, **measured)


def _listen(silero: SileroVad, frames: npt.NDArray[np.int16]) -> _Heard:
    """A call at 8000 Hz, chunk by chunk."""
    listener, step = CallListener(AudioFormat(sample_rate_hz=8000, channels=frames.shape[1]), silero), 8 * _CHUNK_MS
    chunks = [frames[at : at + step].astype("<i2").tobytes() for at in range(0, len(frames), step)]
    began_s = time.thread_time()
    found = [one for chunk in chunks for one in listener.feed(chunk)] + listener.finish()
    cpu_s = time.thread_time() - began_s
    spoken = [one.audio for one in found if isinstance(one, HeardUtterance)]
    return _Heard([to_wide(audio, listener.rate_hz) for audio in spoken], sum(map(len, spoken)) / listener.rate_hz, cpu_s)


def _extraction(models: ModelSet, heard: _Heard, say: Say) -> tuple[dict[str, float], float]:
    """CPU seconds of each model for a second of speech, by their constant; and of all of them for the longest utterance."""
    hear: dict[str, Callable[[Float32], object]] = {
        "voiceprint_cpu_s": models.speaker.embed,
        "voice_cpu_s": models.voice.embed,
        "language_cpu_s": lambda samples: log_posteriors_of(models.language, samples),
    }
    costs, longest_s = {}, 0.0
    for name, model in hear.items():
        say(f"measuring models on this machine: {name.removesuffix('_cpu_s')}")
        taken_s = list(least_s(model, heard.utterances))
        costs[name] = sum(taken_s) / heard.speech_s
        longest_s += max(taken_s)
    return costs, longest_s


def least_s(model: Callable[[Float32], object], utterances: Sequence[Float32]) -> Iterator[float]:
    """CPU seconds that the model takes for each utterance, the least of several times."""
    for samples in utterances:
        yield min(timeit.repeat(functools.partial(model, samples), timer=time.thread_time, number=1, repeat=_TIMES))
