"""Which models hear an utterance: when a channel has said enough, more speech costs much and adds next to nothing."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.options import known_tasks
from pipeline.settings import Settings
from schemas.media import CallOptions
from schemas.tasks import Technology

_OF_VOICEPRINTS = {
    Technology.VOICEPRINT_EXTRACTION,
    Technology.GENDER_IDENTIFICATION,
    Technology.VOICEPRINT_COMPARISON,
}


class Wanted(NamedTuple):
    """What is to be made of an utterance."""

    voiceprint: bool
    language: bool
    voice: bool  # embedding (GE2E) in its voiceprint


class Needs(NamedTuple):
    """What a call needs: how much speech of a channel for voiceprints (s, without end for None), and languages at all.

    `voice_s` of it also for the voice embedding. When a channel's language is known is for whoever identifies it.
    """

    voiceprint_s: float | None
    language: bool
    voice_s: float | None = None

    def of_utterance(self, before_ms: int) -> Wanted:
        """What is wanted of an utterance whose channel has had so much speech before it."""
        wants_voiceprint = _is_less(before_ms, self.voiceprint_s)
        return Wanted(wants_voiceprint, self.language, wants_voiceprint and _is_less(before_ms, self.voice_s))

    @property
    def are_endless(self) -> bool:
        """Whether something is wanted of every utterance."""
        return self.voiceprint_s is None or self.language


def needs_of(options: CallOptions, settings: Settings) -> Needs:
    """What a call needs."""
    tasks = set(known_tasks(options))
    voiceprint_s, voice_s = (
        None if options.exhaustive or not enough_s else enough_s
        for enough_s in (settings.voiceprint_enough_s, settings.voice_enough_s)
    )
    return Needs(voiceprint_s if tasks & _OF_VOICEPRINTS else 0.0, Technology.LANGUAGE_IDENTIFICATION in tasks, voice_s)


def _is_less(before_ms: int, enough_s: float | None) -> bool:
    return enough_s is None or before_ms < enough_s * 1000
