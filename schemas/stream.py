"""What flows between the agents: the records of `speech` and `prints` (MessagePack, tagged by `kind`), and of `watchlist`.

A call is one `begin`, its utterances in order of their end, and one `end`, on both topics, under the call id as key; on
`prints` hardly any utterance of which nothing was wanted, on `speech` drafts between them.
"""

import msgspec

from schemas.media import AudioFormat, CallOptions


class CallBegin(msgspec.Struct, frozen=True, tag="begin", tag_field="kind"):
    """The first record of a call: what was asked for."""

    call_id: str
    channels: int
    options: CallOptions
    correlation_id: str


class Utterance(msgspec.Struct, frozen=True, tag="utterance", tag_field="kind", omit_defaults=True):
    """One stretch of speech of one channel, at most 15 s.

    `audio` is int16 little-endian mono at `sample_rate_hz` (8000 or 16000); `start_sample` and `end_sample` count at that
    rate from the call's begin. Its id is `call_id/channel/start_sample`. `wants_voiceprint` and `wants_language` say what is to
    be made of it; an utterance of which nothing is wanted is not there. Without `wants_voice` its voiceprint has no voice
    embedding.
    """

    call_id: str
    channel: int
    start_sample: int
    end_sample: int
    sample_rate_hz: int
    audio: bytes
    wants_voiceprint: bool = True
    wants_language: bool = True
    wants_voice: bool = True

    @property
    def speech_s(self) -> float:
        """Seconds of speech."""
        return (self.end_sample - self.start_sample) / self.sample_rate_hz


class Draft(msgspec.Struct, frozen=True, tag="draft", tag_field="kind"):
    """An utterance of a live call that pauses, as it will be if no more speech comes.

    Whoever has nothing else to do may get ahead with it. It promises nothing: the utterance comes, as it or another, or never.
    """

    utterance: Utterance

    @property
    def call_id(self) -> str:
        """Whose it is."""
        return self.utterance.call_id


class Print(msgspec.Struct, frozen=True, tag="print", tag_field="kind"):
    """What extraction heard in one utterance; one of which nothing was wanted is seldom there, as a sign of life.

    `voiceprint` is a voiceprint as bytes (see pipeline.scoring.voiceprint), None when none was wanted, with zeros for its voice
    embedding when the channel had said enough for that; `languages` holds natural-log posteriors, float32 little-endian, in the
    order of the language model's labels; it is empty when the utterance was too short, None when none were wanted, or the
    channel's language was known.
    """

    call_id: str
    channel: int
    start_sample: int
    end_sample: int
    sample_rate_hz: int
    voiceprint: bytes | None
    languages: bytes | None

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


Said = CallBegin | Utterance | CallEnd | Fault
SpeechRecord = Said | Draft
PrintRecord = CallBegin | Print | CallEnd | Fault


class AssemblyState(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the assembly of a call stood between two chunks. `position` and `missing_bytes` count bytes of the call."""

    format: AudioFormat
    next_sequence: int
    position: int
    last_length: int | None = None
    owed_chunks: int = 0
    missing_bytes: list[tuple[int, int]] = []
    lost_sequences: list[tuple[int, int]] = []
    options: str | None = None


class CallOpened(msgspec.Struct, frozen=True, tag="opened", tag_field="kind"):
    """A call that is about to begin, on `snapshots` under its call id.

    Whatever it says on `speech` has an offset of `speech_end` or more.
    """

    call_id: str
    speech_end: int


class CallSnapshot(msgspec.Struct, frozen=True, tag="snapshot", tag_field="kind"):
    """A call in progress as the VAD agent left it at a grid point, on `snapshots` under its call id (MessagePack).

    `assembly` is where to read on: at or before `first_block`. From there to `block` (both in blocks of 160 ms) audio is only
    kept; from `block` on it is heard. `detectors` are the channels' detectors, `segments_ms` what was found before.
    Whatever the call says on `speech` after this has an offset of `speech_end` or more.
    """

    call_id: str
    assembly: AssemblyState
    first_block: int
    block: int
    detectors: list[bytes]
    segments_ms: list[list[tuple[int, int]]]
    revision: int
    correlation_id: str
    speech_end: int = 0


class CallEnded(msgspec.Struct, frozen=True, tag="ended", tag_field="kind"):
    """A call that has ended, so that no chunk of it that comes again begins it anew; on `snapshots` under a key of its own."""

    call_id: str
    next_sequence: int
    lost_sequences: list[tuple[int, int]]


class EnrolledVoices(msgspec.Struct, frozen=True, tag="enrolled", tag_field="kind"):
    """A watch list as calls met it, on `snapshots` under a byte and its digest: once for all calls that met the same.

    Packed voiceprints by subject id, sorted by these; `digest` is the SHA-256 of their MessagePack.
    """

    digest: bytes
    voiceprints: dict[str, bytes]


class CallReferences(msgspec.Struct, frozen=True, tag="references", tag_field="kind"):
    """The watch list that the comparison agent found when it met the call, so that a replay compares with the same voices.

    The digest of an `EnrolledVoices`, on `snapshots` under a byte and the call id.
    """

    call_id: str
    digest: bytes


SnapshotRecord = CallOpened | CallSnapshot | CallEnded | EnrolledVoices | CallReferences


class WatchlistEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """An enrolled voiceprint (JSON) under its subject id as key; a tombstone removes it."""

    voiceprint: str
    label: str | None = None
