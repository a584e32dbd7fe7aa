"""The VAD result of a call: its spans as segments in seconds."""

import math

from pipeline.audio.vad import SpeechSpan
from schemas.media import AudioFormat
from schemas.results import MissingAudio, Segment, SegmentType, VadChannel, VadResult


class SegmentLog:
    """The segments of every channel by now, in whole milliseconds, so that lengths are exact sums."""

    def __init__(self, audio_format: AudioFormat, rate_hz: int, segments_ms: list[list[tuple[int, int]]] | None = None) -> None:
        self._format = audio_format
        self._rate_hz = rate_hz
        self._segments_ms = segments_ms or [[] for _ in range(audio_format.channels)]

    def state(self) -> list[list[tuple[int, int]]]:
        """The segments of each channel in ms, to go on from."""
        return [list(segments_ms) for segments_ms in self._segments_ms]

    def add(self, channel: int, span: SpeechSpan) -> None:
        """Add an utterance; one that touches the one before it (a long speech, cut at 15 s) goes on its segment."""
        start_ms, end_ms = (round(sample * 1000 / self._rate_hz) for sample in (span.start_sample, span.end_sample))
        segments_ms = self._segments_ms[channel]
        if segments_ms and segments_ms[-1][1] == start_ms:
            start_ms, _ = segments_ms.pop()
        segments_ms.append((start_ms, end_ms))

    def result(self, missing_bytes: list[tuple[int, int]], before_sample: int | None = None) -> VadResult:
        """The result by now. `missing_bytes` are ranges of the call's bytes; those behind `before_sample` are left out."""
        before_s = math.inf if before_sample is None else before_sample / self._rate_hz
        missing = [
            MissingAudio(self._byte_time_s(start), self._byte_time_s(end))
            for start, end in missing_bytes
            if start / self._format.bytes_per_s < before_s
        ]
        return VadResult([self._channel(number, missing) for number in range(self._format.channels)])

    def _byte_time_s(self, position: int) -> float:
        return round(position / self._format.bytes_per_s, 3)

    def _channel(self, number: int, missing: list[MissingAudio]) -> VadChannel:
        segments_ms = self._segments_ms[number]
        segments = [Segment(SegmentType.VOICE, start_ms / 1000, end_ms / 1000) for start_ms, end_ms in segments_ms]
        length_s = sum(end_ms - start_ms for start_ms, end_ms in segments_ms) / 1000
        return VadChannel(number, length_s, segments, missing) if missing else VadChannel(number, length_s, segments)
