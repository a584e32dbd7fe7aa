"""Thousands of damaged records to the real stages, good calls in between: the good ones end as if they were alone.

Every bad record is in `dead-letters`, or is accounted for by a rule. CALLSTREAM_FUZZ scales how many (20,000 there are
5,000 here). A record that fails is named by its topic and number: `bad_record(topic, number)` of tests/fuzz/records.py is it.
"""

import collections
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import ConsumerRecord, TopicPartition

from pipeline.blobs import open_blobs
from pipeline.query.records import RecordInvalidError, read_change
from pipeline.query.view import View, now_ms
from pipeline.scoring.voiceprint import decode, pack, unpack
from pipeline.watchlist import WatchlistFollower
from tests.agents.conftest import OpenBench
from tests.fuzz.good_calls import (
    COUNT,
    GOOD_CALLS,
    HOUR_S,
    TECHNOLOGIES,
    Account,
    check_results,
    end_everything,
    good_pieces,
    good_values,
    put,
    put_bad,
    unacknowledged,
    undisturbed,
    voiceprint,
    wav,
)
from tests.fuzz.records import BLOB, Bad, bad_record
from tests.fuzz.test_bodies import rss_bytes
from tests.harness import bench_settings

PLAN = ["media", "media", "media", "media", "requests", "requests", "requests", "speech", "prints", "prints"]
MOST_CPU_S = 2.0
MOST_GROWTH_BYTES = 300 << 20


async def test_bad_records_are_accounted_for_and_harm_no_good_call(open_bench: OpenBench) -> None:
    expected = await undisturbed(open_bench)
    assert len(expected) == GOOD_CALLS * len(TECHNOLOGIES) + 2
    async with open_bench(max_gap_s=2.0) as bench:
        open_blobs(bench.settings).put(BLOB, wav())
        good, records, slow = good_pieces(), {}, []
        memory_bytes = rss_bytes()
        for case in range(COUNT):
            if good and case % max(1, COUNT // 25) == 0:
                await put(bench, good.pop(0))
            topic, began_s = PLAN[case % len(PLAN)], time.process_time()
            records[topic, case] = await put_bad(bench, bad_record(topic, case))
            if (cpu_s := time.process_time() - began_s) > MOST_CPU_S:
                slow.append(f"bad_record({topic!r}, {case}): {cpu_s:.1f} s")
        assert not good
        await end_everything(bench)
        growth_bytes = rss_bytes() - memory_bytes
        check_results(bench)
        account = Account(bench.log["dead-letters"], bench.log["results"])
    fates = {place: account.fate(record) for place, record in records.items()}
    print(f"{growth_bytes / 1e6:.0f} MB more; {account.final_count} tasks are final")  # noqa: T201
    print("\n".join(f"{count:6} {fate}" for fate, count in collections.Counter(map(str, fates.values())).most_common()))  # noqa: T201
    assert [f"bad_record({topic!r}, {case})" for (topic, case), fate in fates.items() if fate is None] == []
    assert slow == []
    assert [place for place, fate in fates.items() if place[0] in ("media", "requests") and "internal" in str(fate)] == []
    assert good_values(bench) == expected
    assert unacknowledged(bench) == []
    assert growth_bytes < MOST_GROWTH_BYTES


async def test_bad_snapshots_harm_no_good_call(open_bench: OpenBench) -> None:
    """They are what a partition's first record meets: whoever reads on from there must not choke on any of them."""
    expected = await undisturbed(open_bench)
    async with open_bench(max_gap_s=2.0) as bench:
        for case in range(COUNT // 8):
            await put_bad(bench, bad_record("snapshots", case))
        good, slow = good_pieces(), []
        for case in range(COUNT // 8):
            if good and case % max(1, COUNT // 250) == 0:
                await put(bench, good.pop(0))
            began_s = time.process_time()
            await put(bench, ("media", f"bad-snapshots-{case}".encode(), b"\0\0" * 400, (("sequence", b"3"), ("end", b"1"))))
            if (cpu_s := time.process_time() - began_s) > MOST_CPU_S:
                slow.append(f"bad_record('snapshots', {case}): {cpu_s:.1f} s")
        assert not good
        await end_everything(bench)
        check_results(bench)
    print(collections.Counter(bench.dead_letters()).most_common())  # noqa: T201
    assert slow == []
    assert good_values(bench) == expected
    assert unacknowledged(bench) == []


def _batch(bad: Bad) -> Any:
    """As aiokafka gives it, in a batch."""
    return {TopicPartition(bad.topic, 0): [ConsumerRecord(bad.topic, 0, 0, 0, 0, bad.key, bad.value, None, 0, 0, ())]}


def test_bad_entries_of_the_watch_list_are_left_out(tmp_path: Path) -> None:
    follower = WatchlistFollower(bench_settings(tmp_path))
    entry = json.dumps({"voiceprint": voiceprint(1)}).encode()
    follower.take(_batch(Bad("watchlist", b"good", entry, [])))
    for case in range(COUNT // 8):
        follower.take(_batch(bad_record("watchlist", case)))
    assert np.isfinite([unpack(one).embedding for one in follower.entries.values()]).all()
    assert follower.entries["good"] == pack(decode(voiceprint(1)))


def test_bad_results_are_skipped(tmp_path: Path) -> None:
    """The query service's reader knows what no agent wrote; what it takes, its view can keep."""
    view, skipped = View(tmp_path, HOUR_S), 0
    for case in range(COUNT // 8):
        bad = bad_record("results", case)
        try:
            view.apply([read_change(bad.key, bad.value, now_ms())], {("results", 0): case + 1})
        except RecordInvalidError:
            skipped += 1
    assert COUNT / 20 < skipped < COUNT / 8
    view.close()


def test_the_damage_can_be_repeated() -> None:
    topics = ["media", "requests", "speech", "prints", "snapshots", "results", "watchlist"]
    assert [bad_record(topic, case) for topic in topics for case in range(50)] == [
        bad_record(topic, case) for topic in topics for case in range(50)
    ]
