"""What calls are compared with: the watch list as they met it, kept once for all that met the same."""

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agents import comparison
from pipeline.records import OutgoingRecord, Record
from pipeline.scoring.comparison import compare
from pipeline.scoring.enrolled import Enrolled
from pipeline.scoring.voiceprint import DIMENSION, Voiceprint, pack
from pipeline.settings import Settings
from pipeline.snapshots import PinnedReferences
from schemas.media import CallOptions
from schemas.stream import CallBegin
from tests.agents.conftest import OpenBench
from tests.agents.test_chain import COMPARISON, send
from tests.harness import Bench, media_headers, sample_audio


def watchlist_of(bench: Bench) -> Any:
    return bench.frames[-1].stage._watchlist  # type: ignore[attr-defined]


def voices(count: int) -> dict[str, Voiceprint]:
    random = np.random.default_rng(5)
    return {str(n): Voiceprint(random.standard_normal(DIMENSION).astype(np.float32), 3.0) for n in range(count)}


def kinds(bench: Bench) -> list[str]:
    """Of what is on `snapshots`."""
    return [msgspec.msgpack.decode(one.value)["kind"] for one in bench.log["snapshots"] if one.value]


async def begin_calls(bench: Bench, *call_ids: str) -> None:
    for call_id in call_ids:
        await bench.produce("media", call_id.encode(), sample_audio(0, 5), media_headers(0))


async def test_a_replay_compares_with_the_watch_list_as_the_call_met_it(open_bench: OpenBench) -> None:
    random = np.random.default_rng(5)
    entry = Voiceprint(random.standard_normal(DIMENSION).astype(np.float32), 3.0)
    async with open_bench() as bench:
        watchlist_of(bench).entries["anna"] = entry
        await send(bench, sample_audio(0, 10))
    assert bench.final("call-1", COMPARISON)["result"]["references"] == ["watchlist/anna"]
    async with open_bench() as again:
        again.log = bench.log
        before = set(bench.log["results"])
        watchlist_of(again).entries["bert"] = entry
        for record in list(bench.log["prints"]):
            await again.frames[-1].deliver(record)
    assert {(one.key, one.value) for one in again.log["results"]} == {(one.key, one.value) for one in before}


@pytest.mark.parametrize("options", [{}, {"technologies": [COMPARISON]}], ids=["default", "asked"])
async def test_a_replay_knows_that_the_watch_list_was_empty(open_bench: OpenBench, options: dict[str, Any]) -> None:
    """Whoever enrols a voice later changes nothing that was said of the call."""
    async with open_bench() as bench:
        await send(bench, sample_audio(0, 10), options=json.dumps(options))
    async with open_bench() as again:
        again.log = bench.log
        before = {(one.key, one.value) for one in bench.log["results"]}
        entry = Voiceprint(np.random.default_rng(5).standard_normal(DIMENSION).astype(np.float32), 3.0)
        watchlist_of(again).entries["anna"] = entry
        for record in list(bench.log["prints"]):
            await again.frames[-1].deliver(record)
    assert {(one.key, one.value) for one in again.log["results"]} == before


async def test_calls_share_one_copy_of_their_watch_list(open_bench: OpenBench) -> None:
    """On Kafka, where a takeover reads a day's, and in memory, whoever read it from there."""
    entries, met = voices(2), {"a": ["0"], "b": ["0"], "c": ["0", "1"], "d": ["0", "1"]}
    async with open_bench() as bench:
        for call_id, names in met.items():
            watchlist_of(bench).entries = {name: entries[name] for name in names}
            await begin_calls(bench, call_id)
    kept = kinds(bench)
    assert (kept.count("enrolled"), kept.count("references")) == (2, 4)
    async with open_bench() as again:
        again.log = bench.log
        for record in list(bench.log["prints"]):
            await again.frames[-1].deliver(record)
        references = [again.frames[-1].stage._calls[call_id].evidence.references for call_id in met]  # type: ignore[attr-defined]
    assert [list(one) for one in references] == [[f"watchlist/{name}" for name in names] for names in met.values()]
    assert len({id(one) for one in references}) == 2
    assert kinds(bench) == kept


@pytest.mark.parametrize(("count", "in_loop"), [(1, True), (101, False)])
async def test_a_long_watch_list_is_compared_in_a_thread_of_its_own(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch, count: int, in_loop: bool
) -> None:
    """Other calls would wait for it."""
    threads: set[int] = set()

    def compared(*arguments: Any) -> Any:
        threads.add(threading.get_ident())
        return compare(*arguments)

    monkeypatch.setattr("agents.comparison.compare", compared)
    async with open_bench() as bench:
        watchlist_of(bench).entries = voices(count)
        await send(bench, sample_audio(0, 10))
    assert len(bench.final("call-1", COMPARISON)["result"]["references"]) == count
    assert threads
    assert (threading.get_ident() in threads) is in_loop


async def test_a_list_is_kept_again_before_kafka_deletes_it(open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_bench() as bench:
        watchlist_of(bench).entries = voices(2)
        await begin_calls(bench, "one", "two")
        monkeypatch.setattr(comparison, "_KEPT_S", 0.0)
        await begin_calls(bench, "three")
    assert [kind for kind in kinds(bench) if kind in ("enrolled", "references")] == [
        *("enrolled", "references", "references"),
        *("enrolled", "references"),
    ]


async def test_a_list_that_no_record_can_hold_is_not_kept_and_harms_no_call(
    open_bench: OpenBench, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_bench() as bench:
        watchlist_of(bench).entries = voices(1200)
        await begin_calls(bench, "one", "two")
        assert {"enrolled", "references"} & set(kinds(bench)) == set()
        assert len(bench.frames[-1].stage._calls["two"].evidence.references) == 1200  # type: ignore[attr-defined]
    assert caplog.text.count("too long to be kept") == 1
    assert bench.dead_letters() == []


def test_lists_that_follow_each_other_share_their_voices() -> None:
    packed = {subject: pack(voiceprint) for subject, voiceprint in voices(3).items()}
    first = Enrolled(packed)
    second = Enrolled(packed | {"zoe": pack(voices(4)["3"])})
    assert first.digest != second.digest
    assert all(second.references[name] is voice for name, voice in first.references.items())


async def test_calls_that_are_taken_over_at_once_have_their_list_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Enrolled] = []

    def make(packed: Mapping[str, bytes]) -> Enrolled:
        made.append(Enrolled(packed))
        return made[-1]

    monkeypatch.setattr("pipeline.snapshots.Enrolled", make)
    pinned, packed = PinnedReferences(Settings(data_dir=str(tmp_path))), {name: pack(one) for name, one in voices(3).items()}
    digest = Enrolled(packed).digest
    pinned._lists[digest] = packed

    async def of(_: Record) -> dict[str, bytes]:
        return {str(number): digest for number in range(20)}

    monkeypatch.setattr(pinned, "of", of)
    first = Record("prints", 0, 0, b"0", b"", (), 1.0)
    met = await asyncio.gather(*(pinned.of_call(str(number), first) for number in range(20)))
    assert len(made) == 1
    assert all(one is made[0] for one in met)


async def test_a_list_is_kept_in_each_partition_whose_calls_met_it(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes one of them over reads the lists of that partition alone."""
    kept: list[tuple[str, int | None]] = []
    async with open_bench() as bench:
        publish = bench.publish

        async def note(records: Sequence[OutgoingRecord]) -> list[int]:
            found = [
                (msgspec.msgpack.decode(one.value)["kind"], one) for one in records if one.topic == "snapshots" and one.value
            ]
            kept.extend((kind, one.partition) for kind, one in found if kind in ("enrolled", "references"))
            return await publish(records)

        monkeypatch.setattr(bench, "publish", note)
        watchlist_of(bench).entries = voices(2)
        for number, call_id in enumerate(("one", "two")):
            begin = msgspec.msgpack.encode(CallBegin(call_id, 1, CallOptions(), ""))
            await bench.frames[-1].deliver(Record("prints", number, number, call_id.encode(), begin, (), bench.clock_s))
    assert kept == [(kind, number) for number in (0, 1) for kind in ("enrolled", "references")]
