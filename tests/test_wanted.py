"""What is wanted of an utterance: options and settings decide it together, and what was once enough stays enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.settings import Settings
from pipeline.wanted import Needs, Wanted, needs_of
from schemas.media import CallOptions
from schemas.tasks import Technology

SETTINGS = Settings(voiceprint_enough_s=30.0, voice_enough_s=10.0)
VAD, VOICEPRINT, LANGUAGE, GENDER, COMPARISON = (
    Technology.VOICE_ACTIVITY_DETECTION,
    Technology.VOICEPRINT_EXTRACTION,
    Technology.LANGUAGE_IDENTIFICATION,
    Technology.GENDER_IDENTIFICATION,
    Technology.VOICEPRINT_COMPARISON,
)


@pytest.mark.parametrize(
    ("technologies", "needs"),
    [
        (None, Needs(30.0, language=True, voice_s=10.0)),
        ([VAD], Needs(0.0, language=False, voice_s=10.0)),
        ([LANGUAGE], Needs(0.0, language=True, voice_s=10.0)),
        ([VAD, VOICEPRINT], Needs(30.0, language=False, voice_s=10.0)),
        ([GENDER], Needs(30.0, language=False, voice_s=10.0)),
        ([COMPARISON], Needs(30.0, language=False, voice_s=10.0)),
    ],
)
def test_only_what_the_tasks_need_is_made(technologies: list[Technology] | None, needs: Needs) -> None:
    assert needs_of(CallOptions(technologies=technologies), SETTINGS) == needs


def test_an_exhaustive_call_has_no_end() -> None:
    assert needs_of(CallOptions(exhaustive=True), SETTINGS) == Needs(None, language=True, voice_s=None)
    assert needs_of(CallOptions(exhaustive=True, technologies=[LANGUAGE]), SETTINGS).voiceprint_s == 0.0
    assert needs_of(CallOptions(), Settings(voiceprint_enough_s=0.0)).voiceprint_s is None
    assert needs_of(CallOptions(), Settings(voice_enough_s=0.0)).voice_s is None


def test_something_is_wanted_of_every_utterance_as_long_as_anything_may_be() -> None:
    assert Needs(None, language=False).are_endless
    assert Needs(30.0, language=True).are_endless
    assert not Needs(30.0, language=False).are_endless


LIMITS_S = st.none() | st.floats(0, 1000)


@given(LIMITS_S, LIMITS_S, st.booleans(), st.lists(st.integers(0, 20_000), max_size=60))
def test_what_was_once_enough_stays_enough(
    enough_s: float | None, voice_s: float | None, language: bool, lengths_ms: list[int]
) -> None:
    needs, before_ms, last = Needs(enough_s, language, voice_s), 0, Wanted(True, True, True)
    for length_ms in lengths_ms:
        wanted = needs.of_utterance(before_ms)
        assert all(before or not now for before, now in zip(last, wanted, strict=True))
        assert (wanted.voiceprint, wanted.language) == (enough_s is None or before_ms < enough_s * 1000, language)
        assert wanted.voice == (wanted.voiceprint and (voice_s is None or before_ms < voice_s * 1000))
        before_ms, last = before_ms + length_ms, wanted
