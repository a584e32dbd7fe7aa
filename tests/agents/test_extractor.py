"""When drafts are made, and of what: the models' place is taken by a function that ends when the test says so."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import pytest

from agents import extractor
from agents.extractor import Extractor
from pipeline.models.models import ModelSet
from schemas.stream import Print, Utterance

Made = tuple[str, int, int, bool]  # call, channel, end, with its language


class Models:
    """Notes what is begun, ends it when it is let, and fails at what is not whole."""

    def __init__(self) -> None:
        self.begun: list[Made] = []
        self.is_held = False
        self._let = threading.Semaphore(0)
        self._change = threading.Condition()

    def extract(self, _models: ModelSet, utterance: Utterance, wants_language: bool) -> Print:
        with self._change:
            self.begun.append((utterance.call_id, utterance.channel, utterance.end_sample, wants_language))
            self._change.notify_all()
        if self.is_held:
            assert self._let.acquire(timeout=30)
        if len(utterance.audio) % 2:
            raise ValueError("half a sample")
        return a_print(utterance, wants_language)

    def let(self, count: int = 1) -> None:
        self._let.release(count)

    async def wait_begun(self, count: int) -> None:
        def wait() -> bool:
            with self._change:
                return self._change.wait_for(lambda: len(self.begun) >= count, timeout=30)

        assert await asyncio.to_thread(wait)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Models:
    models = Models()
    monkeypatch.setattr(extractor, "extract", models.extract)
    return models


Open = Callable[..., Extractor]


@pytest.fixture
async def opened(models: Models) -> AsyncIterator[Open]:
    extractors: list[Extractor] = []

    def open_one(threads: int = 1, least_busy: int | None = None) -> Extractor:
        extractors.append(Extractor(threads, threads if least_busy is None else least_busy))
        extractors[-1].models = cast(ModelSet, models)
        return extractors[-1]

    yield open_one
    models.let(100)
    for one in extractors:
        one.close()


def an_utterance(call: str = "call", channel: int = 0, end: int = 4, **changed: Any) -> Utterance:
    return msgspec.structs.replace(Utterance(call, channel, 0, end, 8000, bytes(2 * end)), **changed)


def a_print(utterance: Utterance, wants_language: bool) -> Print:
    place = utterance.call_id, utterance.channel, utterance.start_sample, utterance.end_sample, utterance.sample_rate_hz
    return Print(*place, b"voice" if utterance.wants_voiceprint else None, b"language" if wants_language else None)


async def settled() -> None:
    """Whatever was made has been taken notice of."""
    for _ in range(50):
        await asyncio.sleep(0.001)


async def test_an_utterance_that_was_drafted_is_not_made_again(opened: Open, models: Models) -> None:
    one = opened()
    one.draft(an_utterance(), True)
    await models.wait_begun(1)
    await settled()
    assert await one.make(an_utterance(), True) == a_print(an_utterance(), True)
    assert models.begun == [("call", 0, 4, True)]


async def test_a_draft_that_is_under_way_is_waited_for(opened: Open, models: Models) -> None:
    one, models.is_held = opened(), True
    one.draft(an_utterance(), True)
    await models.wait_begun(1)
    making = asyncio.ensure_future(one.make(an_utterance(), True))
    await settled()
    assert not making.done()
    models.let()
    assert await making == a_print(an_utterance(), True)
    assert len(models.begun) == 1


@pytest.mark.parametrize(
    "changed", [{"end_sample": 5, "audio": bytes(10)}, {"audio": b"12345678"}, {"wants_voice": False}, {"channel": 1}]
)
async def test_an_utterance_that_is_another_is_made(opened: Open, models: Models, changed: dict[str, Any]) -> None:
    one = opened()
    one.draft(an_utterance(), True)
    await models.wait_begun(1)
    other = an_utterance(**changed)
    assert await one.make(other, True) == a_print(other, True)
    assert len(models.begun) == 2


async def test_a_language_that_is_known_since_is_left_out(opened: Open, models: Models) -> None:
    one = opened()
    one.draft(an_utterance(), True)
    await models.wait_begun(1)
    assert await one.make(an_utterance(), False) == a_print(an_utterance(), False)
    assert len(models.begun) == 1


async def test_a_language_that_was_not_drafted_is_made(opened: Open, models: Models) -> None:
    one = opened()
    one.draft(an_utterance(), False)
    await models.wait_begun(1)
    assert await one.make(an_utterance(), True) == a_print(an_utterance(), True)
    assert len(models.begun) == 2


async def test_drafts_wait_until_nothing_else_is_to_be_made(opened: Open, models: Models) -> None:
    one, models.is_held = opened(), True
    making = [asyncio.ensure_future(one.make(an_utterance(f"call-{number}"), True)) for number in range(3)]
    await models.wait_begun(1)
    one.draft(an_utterance("draft-0"), True)
    one.draft(an_utterance("draft-1"), True)
    for begun in (2, 3, 4, 5):
        models.let()
        await models.wait_begun(begun)
    models.let()
    assert len(await asyncio.gather(*making)) == 3
    assert [call for call, *_ in models.begun] == ["call-0", "call-1", "call-2", "draft-0", "draft-1"]


async def test_as_many_drafts_are_under_way_as_there_are_threads(opened: Open, models: Models) -> None:
    one, models.is_held = opened(threads=2), True
    for number in range(4):
        one.draft(an_utterance(f"call-{number}"), True)
    await models.wait_begun(2)
    await settled()
    assert len(models.begun) == 2
    models.let()
    await models.wait_begun(3)
    await settled()
    assert [call for call, *_ in models.begun] == ["call-0", "call-1", "call-2"]


async def test_only_the_newest_draft_of_a_channel_is_made(opened: Open, models: Models) -> None:
    one, models.is_held = opened(), True
    making = asyncio.ensure_future(one.make(an_utterance("other"), True))
    await models.wait_begun(1)
    for end in (4, 6, 8):
        one.draft(an_utterance(end=end), True)
        one.draft(an_utterance(channel=1, end=end), True)
    models.let(10)
    await making
    await models.wait_begun(3)
    await settled()
    assert models.begun[1:] == [("call", 0, 8, True), ("call", 1, 8, True)]


@pytest.mark.parametrize("end", ["drop", "drop_call", "forget"])
async def test_a_draft_that_is_of_no_use_any_more_is_not_begun(opened: Open, models: Models, end: str) -> None:
    one, models.is_held = opened(), True
    making = asyncio.ensure_future(one.make(an_utterance("other"), True))
    await models.wait_begun(1)
    one.draft(an_utterance("call-1"), True)
    one.draft(an_utterance("call-2"), True)
    match end:
        case "drop":
            one.drop("call-1", 0)
        case "drop_call":
            one.drop_call("call-1")
        case _:
            one.forget()
    models.let(10)
    await making
    await settled()
    assert [call for call, *_ in models.begun] == (["other"] if end == "forget" else ["other", "call-2"])


async def test_a_draft_that_waits_does_not_keep_its_utterance_waiting(opened: Open, models: Models) -> None:
    one, models.is_held = opened(), True
    making = asyncio.ensure_future(one.make(an_utterance("other"), True))
    await models.wait_begun(1)
    one.draft(an_utterance("first"), True)
    one.draft(an_utterance("second"), True)
    wanted = asyncio.ensure_future(one.make(an_utterance("second"), True))
    await settled()
    models.let(10)
    await asyncio.gather(making, wanted)
    await settled()
    assert [call for call, *_ in models.begun] == ["other", "second", "first"]


async def test_a_fault_of_a_draft_is_that_of_its_utterance(opened: Open, models: Models) -> None:
    one, broken = opened(), an_utterance(audio=bytes(7))
    one.draft(broken, True)
    await models.wait_begun(1)
    await settled()
    with pytest.raises(ValueError, match="half a sample"):
        await one.make(broken, True)
    assert await one.make(an_utterance(), True) == a_print(an_utterance(), True)


async def test_a_draft_that_is_said_again_is_made_once(opened: Open, models: Models) -> None:
    one = opened()
    for _ in range(3):
        one.draft(an_utterance(), True)
        await models.wait_begun(1)
        await settled()
    assert len(models.begun) == 1


async def test_an_utterance_that_came_with_a_draft_goes_first(opened: Open, models: Models) -> None:
    one, models.is_held = opened(), True
    making = asyncio.ensure_future(one.make(an_utterance("wanted"), True))  # its turn comes behind what runs now
    one.draft(an_utterance("draft"), True)
    models.let(2)
    await making
    await models.wait_begun(2)
    assert [call for call, *_ in models.begun] == ["wanted", "draft"]


async def test_threads_that_wait_for_one_another_are_not_for_drafts(opened: Open, models: Models) -> None:
    one, models.is_held = opened(threads=8, least_busy=1), True
    making = asyncio.ensure_future(one.make(an_utterance("wanted"), True))
    await models.wait_begun(1)
    one.draft(an_utterance("draft"), True)
    await settled()
    assert len(models.begun) == 1
    models.let(2)
    await making
    await models.wait_begun(2)
