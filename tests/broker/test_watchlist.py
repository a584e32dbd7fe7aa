"""The watch list is followed also behind whatever ends its consumer."""

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]  # no __all__

from pipeline import whole_topic
from pipeline.scoring.voiceprint import EMPTY, encode
from pipeline.settings import Settings
from pipeline.watchlist import WatchlistFollower
from schemas.stream import WatchlistEntry
from tests.system import PATIENCE_S, System, open_system

pytestmark = pytest.mark.broker

SUBJECTS = [f"subject-{number}" for number in range(12)]


def enrol(system: System, subject: str) -> None:
    system.produce("watchlist", subject.encode(), msgspec.json.encode(WatchlistEntry(encode(EMPTY))))


async def wait_for(follower: WatchlistFollower, subjects: set[str]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while set(follower.entries) != subjects and time.monotonic() < give_up_s:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.05)
    met = await follower.now()
    assert set(follower.entries) == set(met.packed) == subjects
    assert await follower.now() is met


async def test_a_fetcher_that_has_ended_is_replaced(broker_bootstrap: str, topic_prefix: str, tmp_path: Path) -> None:
    """aiokafka would give nothing and say nothing, for ever."""
    settings = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, partitions=1)
    with open_system(settings, tmp_path) as system:
        follower = WatchlistFollower(settings)
        enrol(system, "anna")
        await follower.start()
        try:
            assert set(follower.entries) == {"anna"}
            cast(Any, follower._consumer)._fetcher._fetch_task.cancel()
            enrol(system, "bert")
            await wait_for(follower, {"anna", "bert"})
            system.produce("watchlist", b"anna", None)
            await wait_for(follower, {"bert"})
        finally:
            await follower.stop()


async def test_partitions_that_are_added_are_followed_and_the_newest_word_counts(
    broker_bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said of a subject before stays in its old partition, for ever."""
    monkeypatch.setattr(whole_topic, "LOOK_ROUND_MS", 500)
    settings = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, partitions=1)
    with open_system(settings, tmp_path) as system:
        follower = WatchlistFollower(settings)
        for subject in SUBJECTS:
            enrol(system, subject)
        await follower.start()
        try:
            await wait_for(follower, set(SUBJECTS))
            admin = AdminClient({"bootstrap.servers": settings.broker})
            [grown] = admin.create_partitions([NewPartitions(settings.topic("watchlist"), 4)]).values()
            await asyncio.to_thread(grown.result)
            with open_system(settings, tmp_path) as producing:  # which hears of new partitions at once
                for subject in SUBJECTS:
                    producing.produce("watchlist", subject.encode(), None)
                enrol(producing, "zoe")
                enrol(producing, "amy")
                producing.produce("watchlist", b"amy", b'{"voiceprint": "none"}')  # as good as none: it replaces what there was
            await wait_for(follower, {"zoe"})
        finally:
            await follower.stop()
        places = {message.partition() for message in system.read("watchlist") if message.value() is None}
        assert len(places) > 1
        late = WatchlistFollower(settings)
        await late.start()
        try:
            assert set(late.entries) == {"zoe"}
        finally:
            await late.stop()
