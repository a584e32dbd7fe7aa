"""How much of everything a number of live calls takes, computed from what was measured (docs/performance.md)."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from pipeline.topics import TOPICS


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What comes in. `speech` is the share of each channel's time, the length of a call in s.

    `language_s` is how much speech it takes on the average until a channel's language is known: 32 s in 19 corpora, among them
    languages that hardly ever are (`benchmarks/enough.py`); 12 s where the model knows all of them well.
    """

    calls: int
    speech: float = 0.4
    language_s: float = 32.0
    call_s: float = 300.0
    chunk_ms: int = 250
    channels: int = 2
    sample_rate_hz: int = 8000
    bytes_per_sample: int = 2


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """CPU seconds, bytes and MB, as measured on one core with Python 3.11 and whisper-base (docs/performance.md).

    The processor has AVX-512 with VNNI, as Intel's since Cascade Lake and AMD's since Zen 4. A chunk's are without speech: its
    way through Kafka and Faust, decoding, webrtcvad. Speech is a second of one channel.
    """

    chunk_cpu_s: float = 0.00047
    detection_cpu_s: float = 0.0010  # of a second of speech
    voiceprint_cpu_s: float = 0.0140  # of a second of speech, without the voice embedding
    voice_cpu_s: float = 0.0057  # of a second of speech
    language_cpu_s: float = 0.0173  # of a second of speech
    utterance_cpu_s: float = 0.006  # its records and partial results
    idle_cpu_s: float = 0.018  # of a worker without calls, a second
    utterance_s: float = 3.2
    voiceprint_enough_s: float = 31.6  # of each channel: 30 s, and half an utterance, since none is cut
    voice_enough_s: float = 9.6
    drafted: float = 0.87  # seconds of drafts for each second that a voiceprint is made of, in records of 250 ms
    in_vain: float = 0.17  # of these, seconds of drafts behind which speech went on
    chunk_bytes: float = 70.0  # beside the audio
    print_bytes: float = 1060.0
    detection_result_bytes: float = 400.0  # of an utterance, and for each segment before it
    segment_bytes: float = 60.0
    voiceprint_result_bytes: float = 3500.0  # voiceprint and gender
    language_result_bytes: float = 6400.0
    snapshot_bytes: float = 520.0  # of a second of call
    worker_mb: float = 400.0
    call_mb: float = 0.06
    most_load: float = 0.6  # of a core
    latest_s: float = 0.5  # of a hundred partial results at that load 99 come within


PROCESSORS: Final = {
    "vnni": Costs(),
    "avx2": Costs(
        chunk_cpu_s=0.00045,
        detection_cpu_s=0.0022,
        voiceprint_cpu_s=0.0222,
        voice_cpu_s=0.0086,
        language_cpu_s=0.0371,
        utterance_cpu_s=0.011,
        idle_cpu_s=0.02,
        latest_s=0.95,
    ),
}


class TooMuchForACoreError(Exception):
    """One call takes more than a core has for it, and a call is heard by one worker."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What it takes. Bytes are before compression; `disk_bytes` is what topics hold when the oldest records are deleted."""

    cores: float
    workers: int
    partitions: int
    worker_memory_mb: float
    calls_per_worker: float
    written_bytes_per_s: dict[str, float]  # by topic, without copies
    broker_in_bytes_per_s: float
    broker_out_bytes_per_s: float
    disk_bytes: float


def cpu_of_call(traffic: Traffic, costs: Costs) -> float:
    """CPU seconds for a second of one call."""
    spoken_s = traffic.speech * traffic.call_s
    extracted_cpu_s = costs.voiceprint_cpu_s * min(spoken_s, costs.voiceprint_enough_s)
    extracted_cpu_s += costs.voice_cpu_s * min(spoken_s, costs.voice_enough_s, costs.voiceprint_enough_s)
    extracted_cpu_s += costs.language_cpu_s * min(spoken_s, traffic.language_s)
    extracted_cpu_s *= 1 + costs.in_vain
    of_speech = costs.detection_cpu_s + costs.utterance_cpu_s / costs.utterance_s
    of_channel = traffic.speech * of_speech + extracted_cpu_s / traffic.call_s
    return costs.chunk_cpu_s * 1000 / traffic.chunk_ms + traffic.channels * of_channel


def bytes_of_call(traffic: Traffic, costs: Costs) -> dict[str, float]:
    """Bytes a second that a call writes to each topic."""
    spoken_s, rate_hz = traffic.speech * traffic.call_s, min(traffic.sample_rate_hz, 16_000)
    segments = spoken_s * traffic.channels / costs.utterance_s / 2  # that a partial result holds, on the average
    result_bytes = costs.detection_result_bytes + segments * costs.segment_bytes
    result_bytes += costs.voiceprint_result_bytes * min(1.0, costs.voiceprint_enough_s / max(spoken_s, 1.0))
    result_bytes += costs.language_result_bytes * min(1.0, traffic.language_s / max(spoken_s, 1.0))
    utterances_per_s = traffic.channels * traffic.speech / costs.utterance_s
    drafted_s = costs.drafted * min(spoken_s, costs.voiceprint_enough_s)
    printed = min(1.0, max(costs.voiceprint_enough_s, traffic.language_s) / max(spoken_s, 1.0))
    sent = traffic.channels * traffic.sample_rate_hz * traffic.bytes_per_sample
    return {
        "media": sent + costs.chunk_bytes * 1000 / traffic.chunk_ms,
        "speech": traffic.channels * (spoken_s + drafted_s) / traffic.call_s * rate_hz * 2,
        "prints": utterances_per_s * printed * costs.print_bytes,
        "results": utterances_per_s * result_bytes,
        "snapshots": costs.snapshot_bytes,
    }


def plan(traffic: Traffic, costs: Costs = Costs(), copies: int = 3) -> Plan:  # noqa: B008 - frozen
    """What so much traffic takes, with so many copies of each partition. Raises TooMuchForACoreError."""
    one, there_is = cpu_of_call(traffic, costs), costs.most_load - costs.idle_cpu_s
    if one > there_is:
        raise TooMuchForACoreError(
            f"one such call takes {one:.0%} of a core, of which {max(0.0, there_is):.0%} may be used; "
            "take a faster processor or a smaller language model, or send channels apart"
        )
    cores = traffic.calls * one / there_is
    workers = max(1, math.ceil(cores))
    written = {name: traffic.calls * rate for name, rate in bytes_of_call(traffic, costs).items()}
    kept_s = {topic.name: (topic.retention_ms or 0) / 1000 for topic in TOPICS}
    read = written["media"] + written["speech"] + 4 * written["prints"] + written["results"]
    return Plan(
        cores=round(cores, 2),
        workers=workers,
        partitions=_partitions(workers),
        worker_memory_mb=round(costs.worker_mb + costs.call_mb * traffic.calls / workers),
        calls_per_worker=round(traffic.calls / workers, 1),
        written_bytes_per_s={name: round(rate) for name, rate in written.items()},
        broker_in_bytes_per_s=round(copies * sum(written.values())),
        broker_out_bytes_per_s=round(read + (copies - 1) * sum(written.values())),
        disk_bytes=round(copies * sum(rate * kept_s[name] for name, rate in written.items())),
    )


def _partitions(workers: int) -> int:
    """Four for each worker, so that what keys and rebalances leave uneven is a quarter of a worker's load; at least eight."""
    return max(8, 4 * workers)
