"""Putting the chunks of a call in order, once each, with silence for what never came.

What comes out depends on the call's bytes alone, not on how they were cut, repeated or (within the window) shuffled.
"""

import bisect
from collections import deque
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from pipeline.audio.decoding import silence
from schemas.errors import DeadLetterType
from schemas.media import MAX_CHUNK_BYTES, AudioFormat, MediaChunk
from schemas.stream import AssemblyState, CallEnded

Origin = TypeVar("Origin")

_MAX_WAITING = 100_000  # chunks: of one byte each even these are less than the window, and take some 50 MB


EMPTY: Final = DeadLetterType.CHUNK_EMPTY, "the chunk is empty and not the call's end"


def _first(sequences: tuple[int, int]) -> int:
    return sequences[0]


def _name(audio_format: AudioFormat) -> str:
    return f"{audio_format.encoding.value} at {audio_format.sample_rate_hz} Hz with {audio_format.channels} channels"


class Rejected(msgspec.Struct, Generic[Origin], frozen=True):
    """A chunk that is not taken into the call; `origin` is what was given with it."""

    origin: Origin
    type: DeadLetterType
    message: str


class Taken(msgspec.Struct, Generic[Origin], frozen=True):
    """What one step gave: the call's next bytes, and the chunks that were turned away."""

    audio: bytes
    rejected: list[Rejected[Origin]]


class _Waiting(msgspec.Struct, Generic[Origin], frozen=True):
    chunk: MediaChunk
    origin: Origin


class _Boundary(NamedTuple):
    """Where the assembly stood before it took a chunk."""

    position: int
    next_sequence: int
    last_length: int | None
    owed_chunks: int
    missing_count: int
    lost_count: int


class CallAssembler(Generic[Origin]):
    """The chunks of one call. `window_s` and `max_gap_s` are seconds of audio; what one chunk may hold is filled however long.

    A chunk that is missing is waited for until one has come that begins more than `window_s` behind it; then it is filled with
    silence, of the length that the next chunk's `position` tells, else of the length of the chunk before it.
    """

    def __init__(self, window_s: float, max_gap_s: float, max_call_s: float) -> None:
        self.format: AudioFormat | None = None
        self.ended = False
        self.end_seen = False
        self.abandoned = False
        self.missing_bytes: list[tuple[int, int]] = []
        self.next_sequence = 0
        self.position = 0
        self.options: str | None = None
        self._window_s = window_s
        self._max_gap_s = max_gap_s
        self._max_call_s = max_call_s
        self._waiting: dict[int, _Waiting[Origin]] = {}
        self._waiting_order: list[int] = []
        self._waiting_bytes = 0
        self._lost: list[tuple[int, int]] = []
        self._last_length: int | None = None
        self._owed_chunks = 0  # turned away in their turn: their silence comes with the next chunk
        self._boundaries: deque[_Boundary] = deque()
        self._out: list[bytes] = []
        self._rejected: list[Rejected[Origin]] = []

    def restore(self, state: AssemblyState) -> None:
        """Go on from a boundary between two chunks; those from `state.next_sequence` on must be put again."""
        self.format, self.options = state.format, state.options
        self.next_sequence, self.position = state.next_sequence, state.position
        self.missing_bytes, self._lost = list(state.missing_bytes), list(state.lost_sequences)
        self._last_length, self._owed_chunks = state.last_length, state.owed_chunks

    def restore_ended(self, ended: CallEnded) -> None:
        """A call that has ended: only what comes again is known."""
        self.ended = True
        self.next_sequence, self._lost = ended.next_sequence, list(ended.lost_sequences)

    def state_at(self, position: int) -> AssemblyState:
        """The last boundary between chunks at or before this byte; those before it are forgotten."""
        while len(self._boundaries) > 1 and self._boundaries[1].position <= position:
            self._boundaries.popleft()
        first = self._boundaries[0]
        assert self.format is not None
        return AssemblyState(
            self.format,
            first.next_sequence,
            first.position,
            first.last_length,
            first.owed_chunks,
            self.missing_bytes[: first.missing_count],
            self._lost[: first.lost_count],
            self.options,
        )

    def ended_state(self, call_id: str) -> CallEnded:
        """What has to be known of this call once it has ended."""
        return CallEnded(call_id, self.next_sequence, self._lost)

    def put(self, chunk: MediaChunk, origin: Origin) -> Taken[Origin]:
        """Take one chunk; give what can be heard now."""
        if self.abandoned:
            return self._give()
        if refusal := self._refusal(chunk):
            self._rejected.append(Rejected(origin, *refusal))
        elif not self._is_repeated(chunk.sequence):
            self._store(chunk, origin)
            self._take_ready()
            while self._waits_too_long():
                self._take_next()
                self._take_ready()
        return self._give()

    def finish(self) -> Taken[Origin]:
        """End the call: what waits is taken, what is missing before it becomes silence."""
        while self._waiting_order and not self.ended:
            self._take_next()
        self._end()
        return self._give()

    def abandon(self) -> None:
        """The call's tasks were rejected or failed: take nothing more, and turn nothing away."""
        self.ended = self.abandoned = True
        self._waiting.clear()
        self._waiting_order.clear()

    def _refusal(self, chunk: MediaChunk) -> tuple[DeadLetterType, str] | None:
        sequence = chunk.sequence
        if self._was_lost(sequence) or ((chunk.audio or chunk.end) and self._is_empty(sequence)):
            if not chunk.audio and not chunk.end:
                return EMPTY
            if self.format is not None and chunk.format != self.format:
                return self._format_changed(chunk, self.format)  # as it was told when it came in its turn, and may come again
            return DeadLetterType.CHUNK_LATE, f"sequence {sequence} came after its place was filled with silence, or left empty"
        if self.ended and sequence >= self.next_sequence:
            return DeadLetterType.CALL_ENDED, f"sequence {sequence} came after the call's end at {self.next_sequence - 1}"
        return None

    def _is_empty(self, sequence: int) -> bool:
        """Whether an empty record waits for this place: another of its number is no repetition, as when that has been taken."""
        waiting = self._waiting.get(sequence)
        return waiting is not None and not waiting.chunk.audio and not waiting.chunk.end

    def _is_repeated(self, sequence: int) -> bool:
        return sequence < self.next_sequence or sequence in self._waiting

    def _was_lost(self, sequence: int) -> bool:
        at = bisect.bisect_right(self._lost, sequence, key=_first) - 1
        return at >= 0 and sequence < self._lost[at][1]

    def _store(self, chunk: MediaChunk, origin: Origin) -> None:
        self._waiting[chunk.sequence] = _Waiting(chunk, origin)
        bisect.insort(self._waiting_order, chunk.sequence)
        self._waiting_bytes += len(chunk.audio)
        self.end_seen = self.end_seen or chunk.end

    def _waits_too_long(self) -> bool:
        if not self._waiting_order or self.ended:
            return False
        newest = self._waiting[self._waiting_order[-1]].chunk
        behind_s = (self._waiting_bytes - len(newest.audio)) / newest.format.bytes_per_s
        return behind_s > self._window_s or len(self._waiting_order) > _MAX_WAITING

    def _take_ready(self) -> None:
        while self._waiting_order and self._waiting_order[0] == self.next_sequence and not self.ended:
            self._take_next()

    def _take_next(self) -> None:
        """Take the first chunk that waits, behind silence for those missing before it."""
        waiting = self._waiting.pop(self._waiting_order.pop(0))
        self._waiting_bytes -= len(waiting.chunk.audio)
        if refusal := self._misfit(waiting.chunk):
            self._turn_away(waiting, refusal)
        else:
            self._take(waiting.chunk)

    def _turn_away(self, waiting: _Waiting[Origin], refusal: tuple[DeadLetterType, str]) -> None:
        # A chunk in its turn leaves a gap of its own; one beyond a gap leaves the gap open for those that may still come.
        self._rejected.append(Rejected(waiting.origin, *refusal))
        self.end_seen = self.end_seen and not waiting.chunk.end
        if waiting.chunk.sequence == self.next_sequence:
            self._owed_chunks += 1
            self._lost.append((self.next_sequence, self.next_sequence + 1))
            self.next_sequence += 1
            if waiting.chunk.end:
                self._end()

    def _misfit(self, chunk: MediaChunk) -> tuple[DeadLetterType, str] | None:
        """Why this chunk cannot be taken at this place, if it cannot."""
        if self.format is not None and chunk.format != self.format:
            return self._format_changed(chunk, self.format)
        if chunk.position is not None and chunk.position < self.position:
            return (
                DeadLetterType.POSITION_CONFLICT,
                f"position {chunk.position} lies before {self.position}, which was heard already",
            )
        gap = self._gap_length(chunk)
        gap_s = gap / chunk.format.bytes_per_s
        if gap_s > self._max_gap_s and gap > MAX_CHUNK_BYTES:
            return (
                DeadLetterType.GAP_TOO_LONG,
                f"{gap_s:.1f} s missing before sequence {chunk.sequence}, more than {self._max_gap_s:g} s",
            )
        return None

    def _format_changed(self, chunk: MediaChunk, begun: AudioFormat) -> tuple[DeadLetterType, str]:
        message = f"sequence {chunk.sequence} is {_name(chunk.format)}, the call began as {_name(begun)}"
        return DeadLetterType.FORMAT_CHANGED, message

    def _gap_length(self, chunk: MediaChunk) -> int:
        """Bytes missing before this chunk: its position tells, else as many chunks as are missing of the length before."""
        if chunk.position is not None:
            return chunk.position - self.position
        lost_chunks = chunk.sequence - self.next_sequence + self._owed_chunks
        return lost_chunks * (len(chunk.audio) if self._last_length is None else self._last_length)

    def _take(self, chunk: MediaChunk) -> None:
        most = int(self._max_call_s * chunk.format.sample_rate_hz) * chunk.format.frame_bytes
        left = max(0, most - self.position)
        gap = min(self._gap_length(chunk), left)
        self._note_boundary()
        if chunk.sequence > self.next_sequence:
            self._lost.append((self.next_sequence, chunk.sequence))
        self.format = self.format or chunk.format
        if chunk.sequence == 0:
            self.options = chunk.options
        if gap:
            self.missing_bytes.append((self.position, self.position + gap))
            self._append(silence(chunk.format, gap))
        self._append(chunk.audio[: left - gap])
        if not chunk.audio and not chunk.end:
            self._lost.append((chunk.sequence, chunk.sequence + 1))  # another one of this number is no repetition
        self._last_length = len(chunk.audio) or self._last_length
        self.next_sequence, self._owed_chunks = chunk.sequence + 1, 0
        if chunk.end or gap + len(chunk.audio) >= left:
            self._end()

    def _note_boundary(self) -> None:
        counts = (len(self.missing_bytes), len(self._lost))
        self._boundaries.append(_Boundary(self.position, self.next_sequence, self._last_length, self._owed_chunks, *counts))

    def _append(self, audio: bytes) -> None:
        self._out.append(audio)
        self.position += len(audio)

    def _end(self) -> None:
        self.ended = True
        for sequence in self._waiting_order:
            message = f"sequence {sequence} lies behind the call's end at {self.next_sequence - 1}"
            self._rejected.append(Rejected(self._waiting[sequence].origin, DeadLetterType.CALL_ENDED, message))
        self._waiting.clear()
        self._waiting_order.clear()
        self._waiting_bytes = 0

    def _give(self) -> Taken[Origin]:
        taken = Taken(b"".join(self._out), self._rejected)
        self._out, self._rejected = [], []
        return taken
