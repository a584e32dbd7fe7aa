"""The VAD result of a call: its spans as segments in seconds; and how much of what was heard is used."""

import math
from collections.abc import Iterator
from decimal import Decimal

from pipeline.audio.vad import SpeechSpan
from schemas.media import AudioFormat, CallOptions
from schemas.results import MissingAudio, Segment, SegmentType, VadChannel, VadResult


class SegmentLog:
    """The segments of every channel by now, in whole milliseconds, so that lengths are exact sums.

    They are counted from the call's begin; the result says what `options` say: where the call begins in its file, and its
    channels' numbers there.
    """

    def __init__(
        self,
        audio_format: AudioFormat,
        rate_hz: int,
        segments_ms: list[list[tuple[int, int]]] | None = None,
        options: CallOptions = CallOptions(),  # noqa: B008 - frozen
    ) -> None:
        self._format = audio_format
        self._options = options
        self._begin_ms = round(options.start_time * 1000)
        self._rate_hz = rate_hz
        self._segments_ms = segments_ms or [[] for _ in range(audio_format.channels)]

    def state(self) -> list[list[tuple[int, int]]]:
        """The segments of each channel in ms, to go on from."""
        return [list(segments_ms) for segments_ms in self._segments_ms]

    def speech_ms(self, channel: int) -> int:
        """How much speech of this channel there is by now."""
        return sum(end_ms - start_ms for start_ms, end_ms in self._segments_ms[channel])

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
        told = [each for each in missing_bytes if each[0] / self._format.bytes_per_s < before_s]
        missing = [MissingAudio(self._time_s(start_ms), self._time_s(end_ms)) for start_ms, end_ms in self._in_ms(told)]
        return VadResult([self._channel(number, missing) for number in range(self._format.channels)])

    def _in_ms(self, missing_bytes: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Rounded to the millisecond, and what would be nothing by that to those that hold it; no time is told twice."""
        told_ms, bytes_per_s = 0, self._format.bytes_per_s
        for start, end in missing_bytes:
            start_ms, end_ms = (round(round(position / bytes_per_s, 3) * 1000) for position in (start, end))
            if start_ms == end_ms:
                start_ms, end_ms = start * 1000 // bytes_per_s, -(-end * 1000 // bytes_per_s)
            start_ms = max(start_ms, told_ms)
            if start_ms < end_ms:
                told_ms = end_ms
                yield start_ms, end_ms

    def _time_s(self, call_ms: int) -> float:
        return (self._begin_ms + call_ms) / 1000

    def _channel(self, number: int, missing: list[MissingAudio]) -> VadChannel:
        segments = [
            Segment(SegmentType.VOICE, self._time_s(start_ms), self._time_s(end_ms))
            for start_ms, end_ms in self._segments_ms[number]
        ]
        named, length_s = self._options.channel_number(number), self.speech_ms(number) / 1000
        return VadChannel(named, length_s, segments, missing) if missing else VadChannel(named, length_s, segments)


def used_samples(span: SpeechSpan, before_ms: int, rate_hz: int, max_speech_s: float | None) -> int:
    """How many samples of an utterance are used, when its channel has had `before_ms` of speech before it.

    The limit is taken in whole milliseconds, since results say how much speech there was in these: never more than the limit.
    """
    samples = span.end_sample - span.start_sample
    if max_speech_s is None:
        return samples
    left_ms = max(0, int(Decimal(repr(max_speech_s)) * 1000) - before_ms)
    return min(samples, left_ms * rate_hz // 1000)
