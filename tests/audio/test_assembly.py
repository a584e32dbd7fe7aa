from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.assembly import CallAssembler
from schemas.errors import DeadLetterType
from schemas.media import AudioFormat, Encoding, MediaChunk

FORMAT = AudioFormat(Encoding.PCM_S16LE, 8000, 1)
S = FORMAT.bytes_per_s


def chunk(
    sequence: int, audio: bytes, *, end: bool = False, position: int | None = None, audio_format: AudioFormat = FORMAT
) -> MediaChunk:
    return MediaChunk("call", sequence, audio_format, audio, position, end)


def assembler(window_s: float = 5.0, max_gap_s: float = 60.0) -> CallAssembler[int]:
    return CallAssembler(window_s, max_gap_s, 3600.0)


def cut(audio: bytes, cuts: list[int]) -> list[MediaChunk]:
    """The call cut at these places, each chunk with its position, the last with the end."""
    places = sorted({0, len(audio), *(place % (len(audio) + 1) for place in cuts)})
    pieces = list(pairwise(places))
    return [chunk(n, audio[a:b], end=n == len(pieces) - 1, position=a) for n, (a, b) in enumerate(pieces)]


audio_strategy = st.binary(min_size=1, max_size=400)
cuts_strategy = st.lists(st.integers(0, 400), max_size=20)


@given(audio_strategy, cuts_strategy, st.randoms(use_true_random=False))
def test_cut_shuffled_and_repeated_chunks_give_the_call_back(audio: bytes, cuts: list[int], random: Random) -> None:
    chunks = cut(audio, cuts)
    sent = chunks + random.choices(chunks, k=3)
    random.shuffle(sent)
    calls = assembler()
    heard = b"".join(calls.put(one, n).audio for n, one in enumerate(sent))
    assert heard == audio
    assert calls.ended
    assert calls.missing_bytes == []


@given(audio_strategy, cuts_strategy, st.data())
def test_a_dropped_chunk_with_position_is_the_same_bytes_silenced(audio: bytes, cuts: list[int], data: st.DataObject) -> None:
    chunks = cut(audio, cuts)
    if len(chunks) < 2:
        return
    lost = data.draw(st.integers(0, len(chunks) - 2))
    calls = assembler()
    heard = b"".join(calls.put(one, 0).audio for n, one in enumerate(chunks) if n != lost) + calls.finish().audio
    start, length = chunks[lost].position or 0, len(chunks[lost].audio)
    assert heard == audio[:start] + bytes(length) + audio[start + length :]
    assert calls.missing_bytes == [(start, start + length)]


def test_a_lost_chunk_without_position_is_as_long_as_the_one_before_it() -> None:
    calls = assembler()
    calls.put(chunk(0, b"\1" * 100), 0)
    calls.put(chunk(1, b"\1" * 40), 0)
    taken = calls.put(chunk(4, b"\1" * 10, end=True), 0)
    assert taken.audio == b""
    assert calls.finish().audio == bytes(80) + b"\1" * 10
    assert calls.missing_bytes == [(140, 220)]


def test_the_window_is_waited_through_and_then_no_longer() -> None:
    calls = assembler(window_s=1.0)
    calls.put(chunk(0, b"\1" * 100), 0)
    assert calls.put(chunk(2, b"\2" * S), 0).audio == b""
    assert calls.put(chunk(3, b"\3" * 2), 0).audio == b""
    assert len(calls.put(chunk(4, b"\4" * 2), 0).audio) == 100 + S + 2 + 2
    late = calls.put(chunk(1, b"\1" * 100), 7)
    assert [(one.origin, one.type) for one in late.rejected] == [(7, DeadLetterType.CHUNK_LATE)]


def test_a_chunk_of_10_ms_is_waited_for_through_a_long_window() -> None:
    """Thousands wait behind it, and are taken at once, when it comes or when it was waited for long enough."""
    pieces = [bytes([n % 250 + 1]) * (S // 100) for n in range(3000)]
    calls = assembler(window_s=25.0)
    heard = calls.put(chunk(0, pieces[0]), 0).audio
    for n in range(2, 2000):
        heard += calls.put(chunk(n, pieces[n]), 0).audio
    heard += calls.put(chunk(1, pieces[1]), 0).audio
    assert heard == b"".join(pieces[:2000])
    calls = assembler(window_s=25.0)
    heard = b"".join(calls.put(chunk(n, one), 0).audio for n, one in enumerate(pieces) if n != 1)
    assert heard == pieces[0] + bytes(S // 100) + b"".join(pieces[2:])
    assert calls.missing_bytes == [(S // 100, S // 50)]


def test_what_comes_after_the_end_is_turned_away_but_repetition_is_not() -> None:
    calls = assembler()
    calls.put(chunk(0, b"\1" * 100, end=True), 0)
    assert calls.put(chunk(0, b"\1" * 100, end=True), 1).rejected == []
    assert [one.type for one in calls.put(chunk(1, b"\1"), 2).rejected] == [DeadLetterType.CALL_ENDED]


def test_chunks_beyond_the_end_that_were_waiting_are_turned_away() -> None:
    calls = assembler()
    assert calls.put(chunk(5, b"\1"), 5).rejected == []
    rejected = calls.put(chunk(0, b"\1", end=True), 0).rejected
    assert [(one.origin, one.type) for one in rejected] == [(5, DeadLetterType.CALL_ENDED)]


def test_an_absurd_jump_is_turned_away_and_the_call_goes_on() -> None:
    calls = assembler(window_s=0.0)
    calls.put(chunk(0, b"\1" * S), 0)
    calls.put(chunk(2**40, b"\1" * 2), 9)
    rejected = calls.put(chunk(2**40 + 1, b"\1" * 2, position=10**12), 8).rejected
    assert [(one.origin, one.type) for one in rejected] == [(9, DeadLetterType.GAP_TOO_LONG)]
    assert calls.put(chunk(1, b"\2" * 2), 1).audio == b"\2" * 2
    finished = calls.finish()
    assert [(one.origin, one.type) for one in finished.rejected] == [(8, DeadLetterType.GAP_TOO_LONG)]
    assert finished.audio == b""


def test_another_format_is_turned_away_and_its_time_is_kept() -> None:
    calls = assembler()
    calls.put(chunk(0, b"\1" * 100), 0)
    wide = AudioFormat(Encoding.PCM_S16LE, 16000, 1)
    assert [one.type for one in calls.put(chunk(1, b"\2" * 60, audio_format=wide), 1).rejected] == [
        DeadLetterType.FORMAT_CHANGED
    ]
    assert calls.put(chunk(2, b"\3" * 10, end=True), 2).audio == bytes(100) + b"\3" * 10
    # Put right and sent again it would be heard behind what follows it.
    assert [one.type for one in calls.put(chunk(1, b"\2" * 60), 3).rejected] == [DeadLetterType.CHUNK_LATE]
    again = calls.put(chunk(1, b"\2" * 60, audio_format=wide), 1)  # it may come again itself, from an offset before it
    assert [one.type for one in again.rejected] == [DeadLetterType.FORMAT_CHANGED]


def test_an_overlapping_position_is_turned_away() -> None:
    calls = assembler()
    calls.put(chunk(0, b"\1" * 100, position=0), 0)
    assert [one.type for one in calls.put(chunk(1, b"\2" * 100, position=50), 1).rejected] == [DeadLetterType.POSITION_CONFLICT]
    assert calls.put(chunk(2, b"\3", position=200, end=True), 2).audio == bytes(100) + b"\3"


def test_silence_of_g711_is_not_zero_bytes() -> None:
    for encoding, silent in ((Encoding.MULAW, 0xFF), (Encoding.ALAW, 0xD5)):
        calls = assembler()
        audio_format = AudioFormat(encoding, 8000, 1)
        calls.put(chunk(0, b"\1", position=0, audio_format=audio_format), 0)
        calls.put(chunk(2, b"\1", position=3, end=True, audio_format=audio_format), 0)
        assert calls.finish().audio == bytes([silent, silent, 1])


def test_a_call_of_no_end_is_ended() -> None:
    calls: CallAssembler[int] = CallAssembler(5.0, 60.0, 2.0)
    for sequence in range(3):
        calls.put(chunk(sequence, b"\1" * S), sequence)
    assert calls.ended
    assert calls.position == 2 * S


@given(st.binary(min_size=60, max_size=400), cuts_strategy, st.data())
def test_where_a_call_of_no_end_is_ended_does_not_depend_on_how_it_was_cut(
    audio: bytes, cuts: list[int], data: st.DataObject
) -> None:
    calls: CallAssembler[int] = CallAssembler(0.0, 60.0, 20 / 8000)
    chunks = cut(audio, cuts)
    lost = data.draw(st.none() | st.sampled_from(chunks[:-1])) if len(chunks) > 1 else None
    heard = b"".join(calls.put(one, 0).audio for one in chunks if one is not lost) + calls.finish().audio
    if lost is not None:
        first, length = lost.position or 0, len(lost.audio)
        audio = audio[:first] + bytes(length) + audio[first + length :]
    assert heard == audio[:40]
    assert all(begin < end <= 40 for begin, end in calls.missing_bytes)


Sent = tuple[int, MediaChunk]
WIDE = AudioFormat(Encoding.PCM_S16LE, 16000, 1)


@st.composite
def calls_with_faults(draw: st.DrawFn) -> list[MediaChunk]:
    """A call of which chunks are lost, empty, or in another format; with positions or without."""
    lengths = draw(st.lists(st.integers(1, 60), min_size=2, max_size=12))
    kinds = draw(
        st.lists(st.sampled_from(["good", "good", "lost", "empty", "wide"]), min_size=len(lengths), max_size=len(lengths))
    )
    told, at, sent = draw(st.booleans()), 0, []
    for n, (length, kind) in enumerate(zip(lengths, ["good", *kinds[1:]], strict=True)):
        if kind != "lost":
            audio = b"" if kind == "empty" else bytes([n + 1]) * length
            place = at if told else None
            sent.append(
                chunk(n, audio, end=n == len(lengths) - 1, position=place, audio_format=WIDE if kind == "wide" else FORMAT)
            )
        at += length
    return sent


@given(calls_with_faults(), st.floats(0, 1), st.floats(0, 1))
def test_another_goes_on_from_any_boundary_as_if_it_had_heard_everything(
    sent: list[MediaChunk], killed: float, saved: float
) -> None:
    def hear(calls: CallAssembler[int], chunks: list[MediaChunk]) -> tuple[bytes, list[tuple[int, DeadLetterType]]]:
        taken = [calls.put(one, one.sequence) for one in chunks] + [calls.finish()]
        return b"".join(one.audio for one in taken), [(one.origin, one.type) for each in taken for one in each.rejected]

    whole, first = assembler(window_s=40 / S), assembler(window_s=40 / S)
    audio, letters = hear(whole, sent)
    for one in sent[: 1 + int(killed * (len(sent) - 1))]:
        first.put(one, one.sequence)
    state = first.state_at(int(saved * first.position))
    second = assembler(window_s=40 / S)
    second.restore(state)
    rest, again = hear(second, [one for one in sent if one.sequence >= state.next_sequence])
    assert rest == audio[state.position :]
    assert again == [one for one in letters if one[0] >= state.next_sequence]
    assert second.missing_bytes == whole.missing_bytes
    assert second.ended_state("call") == whole.ended_state("call")


def test_a_call_whose_first_chunks_were_lost_begins_with_their_silence() -> None:
    calls = assembler()
    calls.put(chunk(2, b"\1" * 40, end=True), 0)
    assert calls.finish().audio == bytes(80) + b"\1" * 40
    assert calls.missing_bytes == [(0, 80)]


def test_an_empty_chunk_does_not_say_how_long_a_lost_one_was() -> None:
    calls = assembler()
    for sequence, audio in enumerate((b"\1" * 100, b"")):
        calls.put(chunk(sequence, audio), 0)
    calls.put(chunk(3, b"\1" * 10, end=True), 0)
    assert calls.finish().audio == bytes(100) + b"\1" * 10
    assert calls.missing_bytes == [(100, 200)]


def test_an_end_that_is_turned_away_in_its_turn_ends_the_call_and_one_beyond_a_gap_does_not() -> None:
    wide = AudioFormat(Encoding.PCM_S16LE, 16000, 1)
    calls = assembler(window_s=0.0)
    calls.put(chunk(0, b"\1" * 100), 0)
    calls.put(chunk(5, b"\2" * 100, end=True, audio_format=wide), 5)
    assert [one.origin for one in calls.put(chunk(6, b"\3" * 100), 6).rejected] == [5]
    assert (calls.ended, calls.end_seen) == (False, False)
    calls = assembler()
    calls.put(chunk(0, b"\1" * 100), 0)
    calls.put(chunk(1, b"\2" * 100, end=True, audio_format=wide), 1)
    assert calls.ended


def test_what_was_turned_away_is_owed_once() -> None:
    wide = AudioFormat(Encoding.PCM_S16LE, 16000, 1)
    calls, audio = assembler(), b""
    for sequence, audio_format in ((0, FORMAT), (1, wide), (2, FORMAT), (4, FORMAT)):
        audio += calls.put(chunk(sequence, b"\1" * 100, end=sequence == 4, audio_format=audio_format), 0).audio
    assert audio + calls.finish().audio == b"\1" * 100 + bytes(100) + b"\1" * 100 + bytes(100) + b"\1" * 100
    assert calls.missing_bytes == [(100, 200), (300, 400)]
