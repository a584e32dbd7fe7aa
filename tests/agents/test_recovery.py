"""A VAD agent that is killed anywhere: its successor goes on from the last snapshot, and no byte of the results changes."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agents import vad
from pipeline.options import read_options_again
from pipeline.partition_scan import PartitionScan
from pipeline.records import Record, headers_of
from pipeline.snapshots import decode_snapshot
from schemas.stream import CallSnapshot, Draft, SpeechRecord
from tests.harness import Bench, bench_settings, media_headers, read_log, run, sample_audio

CALL = b"call-1"
SECOND = 8000 * 2 * 2
BLOCK_S = 0.16
# The limit is reached within an utterance: of channel 0 before the snapshot at 32 s, of channel 1 behind it.
FILE_OPTIONS = '{"owner": "anna", "is_file": true, "start_time": 1.5, "channel_numbers": [3, 1], "max_speech_length": 14.876}'


def media(audio: bytes, chunk: int, lost: set[int], *, position: bool, options: str | None = None) -> list[Record]:
    """The records of one call, some of them lost."""
    starts = list(range(0, len(audio), chunk))
    records: list[Record] = []
    for number, start in enumerate(starts):
        if number not in lost:
            headers = media_headers(number, end=number == len(starts) - 1, position=start if position else None)
            if number == 0 and options is not None:
                headers["options"] = options
            place = len(records)
            records.append(
                Record("media", 0, place, CALL, audio[start : start + chunk], headers_of(headers), 1e6 + start / SECOND)
            )
    return records


class Worker:
    """One life of a VAD agent on topics that outlive it."""

    def __init__(self, folder: Path, log: dict[str, list[Record]]) -> None:
        # enough is reached within the calls of these tests
        configuration = bench_settings(folder, voiceprint_enough_s=8.0)
        self.stage = vad.VadStage(configuration)
        self.bench = Bench(configuration, self.stage)
        self.bench.log = log

    async def live(self, records: Sequence[Record], monkeypatch: pytest.MonkeyPatch) -> int:
        """Process these records; how many offsets were given back."""

        async def read(scan: PartitionScan, first: Record) -> object:  # type: ignore[type-arg]
            return await read_log(scan, self.bench.log, first)

        monkeypatch.setattr(PartitionScan, "_read", read)
        async with self.bench:
            for record in records:
                await self.bench.frames[0].deliver(record)
            self.blocks = sum(call.listener.blocks_heard for call in self.stage._calls.values() if call.listener)
            await self.bench.tick()
        return len(self.bench.frames[0].acknowledged["media"])


def without_drafts(records: Sequence[Record]) -> list[tuple[bytes | None, bytes | None]]:
    """Keys and values; drafts may be said again, or not at all."""
    return [(one.key, one.value) for one in records if one.topic != "speech" or not isinstance(_said(one), Draft)]


def _said(record: Record) -> SpeechRecord:
    one: SpeechRecord = msgspec.msgpack.decode(record.value or b"", type=SpeechRecord)
    return one


def spoken(log: dict[str, list[Record]], topic: str) -> list[tuple[bytes | None, bytes | None]]:
    """What is on a topic, each record once, where it came first."""
    return list(dict.fromkeys(without_drafts(log[topic])))


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    chunk=st.integers(3000, 200_000),
    crashes=st.lists(st.floats(0, 1), min_size=1, max_size=3).map(sorted),
    lost=st.sets(st.integers(1, 60), max_size=3),
    position=st.booleans(),
    options=st.sampled_from([None, FILE_OPTIONS]),
)
def test_a_successor_repeats_every_byte_and_hears_little_twice(
    tmp_path_factory: pytest.TempPathFactory,
    chunk: int,
    crashes: list[float],
    lost: set[int],
    position: bool,
    options: str | None,
) -> None:
    folder = tmp_path_factory.mktemp("recovery")
    lost = {n for n in lost if n < len(sample_audio()) // chunk - 1}
    records = media(sample_audio(), chunk, lost, position=position, options=options)
    with pytest.MonkeyPatch.context() as monkeypatch:
        undisturbed: dict[str, list[Record]] = defaultdict(list)
        run(Worker(folder, undisturbed).live(records, monkeypatch))
        log: dict[str, list[Record]] = defaultdict(list)
        begin = 0
        for crash in [*crashes, 1.0]:
            end = max(begin, math.floor(crash * len(records)))
            worker = Worker(folder, log)
            given_back = run(worker.live(records[begin:end], monkeypatch))
            begin += given_back
    for topic in ("results", "speech", "dead-letters"):
        assert spoken(log, topic) == spoken(undisturbed, topic)
    assert len(without_drafts(log["speech"])) == len(without_drafts(undisturbed["speech"]))  # nothing is said twice


@pytest.mark.parametrize("there", ["speech", "results"])
def test_an_utterance_of_which_half_was_said_is_said_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    """It is published side by side with its partial result: when a worker dies, either may be there without the other."""
    records = media(sample_audio(0, 20), SECOND, set(), position=True)
    undisturbed: dict[str, list[Record]] = defaultdict(list)
    run(Worker(tmp_path, undisturbed).live(records, monkeypatch))
    log: dict[str, list[Record]] = defaultdict(list)
    given_back = run(Worker(tmp_path, log).live(records[:10], monkeypatch))
    other = {"speech": "results", "results": "speech"}[there]
    assert b"partial" in (log["results"][-1].value or b"")
    assert not isinstance(_said(log["speech"][-1]), Draft)
    del log[other][-1]
    run(Worker(tmp_path, log).live(records[given_back:], monkeypatch))
    for topic in ("results", "speech"):
        assert spoken(log, topic) == spoken(undisturbed, topic)
    assert len(without_drafts(log["speech"])) == len(without_drafts(undisturbed["speech"]))


def test_no_more_than_thirty_seconds_are_heard_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = sample_audio()
    records = media(audio, SECOND // 4, set(), position=True)
    for killed_at_s in (20, 33, 47, 60, 75):
        log: dict[str, list[Record]] = defaultdict(list)
        processed = killed_at_s * 4
        given_back = run(Worker(tmp_path, log).live(records[:processed], monkeypatch))
        assert given_back > 0 or killed_at_s < 32
        worker = Worker(tmp_path, log)
        run(worker.live(records[given_back:-1], monkeypatch))
        new_s = (len(records) - 1 - processed) / 4
        assert worker.blocks * BLOCK_S - new_s <= 30


def test_a_call_that_has_ended_does_not_begin_anew_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = media(sample_audio(0, 20), SECOND, set(), position=True)
    log: dict[str, list[Record]] = defaultdict(list)
    assert run(Worker(tmp_path, log).live(records, monkeypatch)) == len(records)
    before = {topic: list(log[topic]) for topic in ("results", "speech")}
    late = Record("media", 0, 99, CALL, b"\0\0\0\0", headers_of(media_headers(len(records))), 2e6)
    assert run(Worker(tmp_path, log).live([records[-1], records[3], late], monkeypatch)) == 3
    assert {topic: log[topic] for topic in before} == before
    assert [record.text("error-type") for record in log["dead-letters"]] == ["call.ended"]


@pytest.mark.parametrize("lone_partial", [False, True])
def test_a_snapshot_that_cannot_be_restored_fails_the_call_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lone_partial: bool
) -> None:
    records = media(sample_audio(0, 30), SECOND, set(), position=True, options='{"exhaustive": true}')
    log: dict[str, list[Record]] = defaultdict(list)
    given_back = run(Worker(tmp_path, log).live(records[:20], monkeypatch))
    at = next(n for n, one in enumerate(log["snapshots"]) if isinstance(decode_snapshot(cast(Any, one)), CallSnapshot))
    saved = cast(CallSnapshot, decode_snapshot(cast(Any, log["snapshots"][at])))
    damaged = msgspec.structs.replace(saved, detectors=[b"\xc1", b"\xc1"])
    log["snapshots"][at] = msgspec.structs.replace(log["snapshots"][at], value=msgspec.msgpack.encode(damaged))
    before = len(log["results"])
    if lone_partial:  # it was killed between the two records of its last utterance
        assert not isinstance(_said(log["speech"].pop()), Draft)
    run(Worker(tmp_path, log).live(records[given_back:], monkeypatch))
    (final,) = [json.loads(one.value or b"") for one in log["results"][before:]]
    revisions = [json.loads(one.value or b"")["revision"] for one in log["results"] if one.key == log["results"][-1].key]
    assert final["task"]["state"] == "failed"
    assert revisions[:-1] == list(range(len(revisions) - 1))
    assert revisions[-1] > revisions[-2]  # the newest revision is the one that counts
    assert b"fault" in (log["speech"][-1].value or b"")
    assert [record.text("error-type") for record in log["dead-letters"]] == ["internal"]


def test_a_capped_call_that_cannot_be_restored_fails_behind_all_that_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Utterances beyond the limit are not said, so nobody can count the partial results that they made."""
    options = '{"owner": "anna", "max_speech_length": 0.5}'
    records = media(sample_audio(0, 40), SECOND, set(), position=True, options=options)
    log: dict[str, list[Record]] = defaultdict(list)
    given_back = run(Worker(tmp_path, log).live(records[:31], monkeypatch))
    at = max(n for n, one in enumerate(log["snapshots"]) if isinstance(decode_snapshot(cast(Any, one)), CallSnapshot))
    saved = cast(CallSnapshot, decode_snapshot(cast(Any, log["snapshots"][at])))
    damaged = msgspec.structs.replace(saved, detectors=[b"\xc1", b"\xc1"])
    log["snapshots"][at] = msgspec.structs.replace(log["snapshots"][at], value=msgspec.msgpack.encode(damaged))
    before = [json.loads(one.value or b"") for one in log["results"] if b"partial" in (one.value or b"")]
    run(Worker(tmp_path, log).live(records[given_back:], monkeypatch))
    final = json.loads(log["results"][-1].value or b"")
    assert (final["task"]["state"], final["owner"]) == ("failed", "anna")
    assert final["revision"] > max(one["revision"] for one in before) > saved.revision


async def test_a_call_whose_end_waits_is_not_ended_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job takes a place in the window, so that in the end no other call would be heard."""
    worker = Worker(tmp_path, defaultdict(list))
    submitted: list[object] = []

    async def submit(key: object, _job: object) -> None:
        submitted.append(key)

    async def read(scan: PartitionScan, first: Record) -> object:  # type: ignore[type-arg]
        return await read_log(scan, worker.bench.log, first)

    monkeypatch.setattr(PartitionScan, "_read", read)
    async with worker.bench:
        monkeypatch.setattr(worker.bench.frames[0], "submit", submit)
        await worker.bench.frames[0].deliver(media(sample_audio(0, 2), SECOND, set(), position=True)[0])
        worker.stage._calls["call-1"].last_arrival_s -= 1000
        for _ in range(5):
            await worker.stage.tick()
    assert submitted == [CALL]


@pytest.mark.parametrize("killed_s", [8, 40])
async def test_a_call_that_began_by_another_versions_rules_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_s: int
) -> None:
    """Before and behind its first snapshot: what was followed once is not refused by a successor that is stricter or older."""
    options = json.dumps({"technologies": ["voice-activity-detection"], "correlation_id": "a\u00a0b", "later": 1})
    records = media(sample_audio(), SECOND, set(), position=True, options=options)
    log: dict[str, list[Record]] = defaultdict(list)
    with monkeypatch.context() as older:
        older.setattr(vad, "read_options", read_options_again)
        await Worker(tmp_path, log).live(records[:killed_s], older)
    await Worker(tmp_path, log).live(records, monkeypatch)
    said = [json.loads(value or b"") for _, value in spoken(log, "results")]
    assert [one["revision"] for one in said] == list(range(len(said)))
    assert said[-1]["task"]["state"] == "done"
    assert not log["dead-letters"]
