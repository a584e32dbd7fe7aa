"""What producers do to us: everything again, everything broken, clocks that are wrong, calls that fall silent."""

import json
import random
import signal
import time
from pathlib import Path

import msgspec
import pytest
import stamina
from confluent_kafka import KafkaException
from confluent_kafka.cimpl import NewTopic

from schemas.media import MAX_CHUNK_BYTES
from schemas.stream import CallEnded, CallOpened, CallReferences, CallSnapshot, EnrolledVoices, SnapshotRecord
from tests.faults.admin import admin_of
from tests.faults.calls import LONG, SHORT, Call, Chunk, interleaved, make_call, make_calls
from tests.faults.conftest import Reporter, pick, settings_for
from tests.faults.feed import Feed
from tests.faults.outcome import Expected, Outcome, task_ids
from tests.faults.pool import Pool
from tests.system import System, open_system

pytestmark = pytest.mark.broker


@pytest.mark.parametrize("seed", [1])
def test_everything_comes_three_times_and_the_groups_begin_anew(
    system: System, expected: Expected, report: Reporter, seed: int
) -> None:
    chance = random.Random(seed)
    calls = make_calls(pick(30, 500), seed, "replayed", long_share=0.05)
    with Outcome(system) as outcome:
        with Pool(system, pick(1, 2)) as pool:
            for _ in range(3):
                with Feed(system.settings, interleaved(calls, chance)):
                    pass
            outcome.wait(calls, pick(90, 600))
            assert set(pool.stop_all()) == {0}
        once = outcome.judge(calls, expected).check()
        outcome.reset_groups()
        assert outcome.lag()
        with Pool(system, pick(1, 2)) as pool:
            outcome.wait(calls, pick(90, 600))
        letters = outcome.dead_letters()
        verdict = outcome.judge(calls, expected)
        report(seed, "all 3 times, groups reset", calls, verdict, outcome, pool, len(letters))
        verdict.check()
        assert letters == []
        assert verdict.duplicates > once.duplicates  # they did begin anew


def _bad(kind: int, call: Call, chance: random.Random) -> Chunk:
    """A record of one of six kinds that breaks the rules, mostly in the middle of a good call."""
    good = chance.choice(call.chunks)
    number = chance.getrandbits(48)
    match kind:
        case 0:
            return Chunk(call.call_id, {}, good.value)
        case 1:
            return Chunk(call.call_id, good.headers | {"sequence": "-1"}, good.value)
        case 2:
            return Chunk(call.call_id, good.headers | {"encoding": "opus"}, good.value)
        case 3:
            return Chunk(None, good.headers, good.value)
        case 4:
            return Chunk(call.call_id, good.headers, chance.randbytes(100) * (MAX_CHUNK_BYTES // 100 + 1))
        case _:
            options = {"sequence": "0", "end": "1", "options": f'{{"languages": {number}}}'}
            return Chunk(f"bad-{number}", good.headers | options, good.value)


@pytest.mark.parametrize("seed", [1])
def test_five_in_a_hundred_records_are_poison(system: System, expected: Expected, report: Reporter, seed: int) -> None:
    chance = random.Random(seed)
    calls = make_calls(pick(60, 1000), seed, "poisoned")
    records = interleaved(calls, chance)
    bad = [_bad(number % 6, chance.choice(calls), chance) for number in range(round(len(records) * 0.05 / 0.95))]
    for one in bad:
        records.insert(chance.randrange(len(records) + 1), one)
    with Outcome(system) as outcome, Pool(system, pick(1, 2)) as pool:
        outcome.wait_joined(members=pick(1, 2))
        with Feed(system.settings, records, seconds=pick(5, 60)):
            pass
        outcome.wait(calls, pick(90, 600))
        letters = outcome.dead_letters()
        verdict = outcome.judge(calls, expected)
        report(seed, f"{len(bad)} bad records of 6 kinds", calls, verdict, outcome, pool, len(letters))
        verdict.check()
        # A letter may come twice where a partition changes hands; its source tells.
        once = {bytes(dict(message.headers() or [])["source"]): message for message in letters}  # type: ignore[arg-type]
        buried = sorted((message.key() or b"", message.value() or b"") for message in once.values())
        assert buried == sorted(((one.key or "").encode(), one.value) for one in bad)
        assert pool.exits == []


def test_a_call_that_falls_silent_behind_a_snapshot_ends_though_its_worker_was_killed(
    broker_bootstrap: str, tmp_path: Path
) -> None:
    """Most of its chunks were let go: what is left to be read again must still make it known."""
    call = make_call("silent", LONG[0], random.Random(1), calm=True)
    spoken = call.chunks[:34]  # 17 s, of which the first 16 s are in the snapshot
    with (
        open_system(settings_for(broker_bootstrap, idle_timeout_s=8.0), tmp_path) as system,
        Outcome(system) as outcome,
        Pool(system, 1) as pool,
    ):
        outcome.wait_joined()
        with Feed(system.settings, spoken):
            pass
        give_up_s = time.monotonic() + 30
        while not sum(max(0, offset) for offset in outcome.committed()["vad"].values()):
            assert time.monotonic() < give_up_s, "nothing was let go"
            time.sleep(0.1)
        pool.send(0, signal.SIGKILL)
        outcome.wait([call], 90)
        assert pool.exits == [-signal.SIGKILL]
        assert outcome.lag() == {}
        assert outcome.dead_letters() == []
        kept = [msgspec.msgpack.decode(one.value() or b"\xc0", type=SnapshotRecord | None) for one in system.read("snapshots")]
        of_vad = [type(one) for one in kept if not isinstance(one, CallReferences | EnrolledVoices | None)]
        assert of_vad == [CallOpened, CallSnapshot, CallEnded]
        for task_id in task_ids(call).values():
            [final] = outcome.tasks[task_id].finals
            assert json.loads(final)["task"]["state"] == "done"
            assert all(len(values) == 1 for values in outcome.tasks[task_id].revisions.values())


def _with_clock(call: Call, clock_s: list[float]) -> Call:
    """The call, its chunks stamped by a clock that is wrong by so much, from its begin to its end."""
    for number, chunk in enumerate(call.chunks):
        chunk.clock_s = clock_s[number * len(clock_s) // len(call.chunks)]
    return call


def test_producers_clocks_are_moved_by_an_hour(system: System, expected: Expected) -> None:
    """Only forward within a call counts, as silence of an hour: what comes behind it is too late."""
    hour_s = 3600.0
    chance = random.Random(1)
    moves = {"ahead": [hour_s], "behind": [-hour_s], "back": [0.0, -hour_s], "forward": [0.0, 0.0, hour_s]}
    calls = {name: make_call(name, SHORT[6], chance, calm=True) for name in moves}
    for name, move in moves.items():
        _with_clock(calls[name], move)
    records = interleaved(list(calls.values()), chance)
    with Outcome(system) as outcome, Pool(system, 1):
        with Feed(system.settings, records):
            pass
        outcome.wait(list(calls.values()), 90)
        outcome.judge([calls[name] for name in ("ahead", "behind", "back")], expected).check()
        late = [one for one in calls["forward"].chunks if one.clock_s]
        buried = [(message.key(), message.value()) for message in outcome.dead_letters()]
        assert sorted(buried) == sorted((b"forward", one.value) for one in late)


def make_anew(system: System, name: str) -> None:
    """Delete a topic and create it again at once, as who wants to be rid of what it holds may do."""
    admin, topic = admin_of(system.settings.broker), system.settings.topic(name)
    admin.delete_topics([topic])[topic].result(30)
    # Until the broker has let go of the old one the name is taken.
    for attempt in stamina.retry_context(on=KafkaException, attempts=None, timeout=30.0, wait_initial=0.05, wait_max=0.2):
        with attempt:
            admin.create_topics([NewTopic(topic, system.settings.partitions)])[topic].result(30)


@pytest.mark.parametrize("seed", [1])
def test_a_topic_is_made_anew_under_a_worker(system: System, expected: Expected, report: Reporter, seed: int) -> None:
    """What is sent to the new topic has offsets that the worker has seen before: none of it may be taken for known."""
    chance = random.Random(seed)
    before, behind = make_calls(20, seed, "before"), make_calls(10, seed + 1, "behind")
    with Outcome(system) as outcome:
        with Pool(system, 1) as pool:
            with Feed(system.settings, interleaved(before, chance)):
                pass
            outcome.wait(before, 90)
            make_anew(system, "media")
            with Feed(system.settings, interleaved(behind, chance)):
                pass
            outcome.wait(behind, 120)
            letters = outcome.dead_letters()
        verdict = outcome.judge([*before, *behind], expected)
        report(seed, "media made anew", [*before, *behind], verdict, outcome, pool, len(letters))
        verdict.check()
        assert letters == []
