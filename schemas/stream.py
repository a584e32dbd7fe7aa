"""What flows between the agents: the records of `speech` and `prints` (MessagePack, tagged by `kind`), and of `watchlist`.

A call is one `begin`, its utterances in order of their end, and one `end`, on both topics, under the call id as key.
"""

import msgspec

from schemas.media import CallOptions


class CallBegin(msgspec.Struct, frozen=True, tag="begin", tag_field="kind"):
    """The first record of a call: what was asked for."""

    call_id: str
    channels: int
    options: CallOptions
    correlation_id: str


class Utterance(msgspec.Struct, frozen=True, tag="utterance", tag_field="kind"):
    """One stretch of speech of one channel, at most 15 s.

    `audio` is int16 little-endian mono at `sample_rate_hz` (8000 or 16000); `start_sample` and `end_sample` count at that
    rate from the call's begin. Its id is `call_id/channel/start_sample`.
    """

    call_id: str
    channel: int
    start_sample: int
    end_sample: int
    sample_rate_hz: int
    audio: bytes

    @property
    def speech_s(self) -> float:
        """Seconds of speech."""
        return (self.end_sample - self.start_sample) / self.sample_rate_hz


class Print(msgspec.Struct, frozen=True, tag="print", tag_field="kind"):
    """What extraction heard in one utterance.

    `voiceprint` is a voiceprint as bytes (see pipeline.scoring.voiceprint); `languages` holds natural-log posteriors,
    float32 little-endian, in the order of the language model's labels; it is empty when the utterance was too short.
    """

    call_id: str
    channel: int
    start_sample: int
    end_sample: int
    sample_rate_hz: int
    voiceprint: bytes
    languages: bytes

    @property
    def speech_s(self) -> float:
        """Seconds of speech."""
        return (self.end_sample - self.start_sample) / self.sample_rate_hz


class CallEnd(msgspec.Struct, frozen=True, tag="end", tag_field="kind"):
    """The last record of a call that was heard to its end."""

    call_id: str
    channels: int


class Fault(msgspec.Struct, frozen=True, tag="fault", tag_field="kind"):
    """The call cannot be heard to its end; its tasks fail."""

    call_id: str
    message: str


SpeechRecord = CallBegin | Utterance | CallEnd | Fault
PrintRecord = CallBegin | Print | CallEnd | Fault


class WatchlistEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """An enrolled voiceprint (JSON) under its subject id as key; a tombstone removes it."""

    voiceprint: str
    label: str | None = None
