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


class Needs(NamedTuple):
    """What a call needs: how much speech of a channel for voiceprints (s, without end for None), and languages at all.

    When a channel's language is known is for whoever identifies it.
    """

    voiceprint_s: float | None
    language: bool

    def of_utterance(self, before_ms: int) -> Wanted:
        """What is wanted of an utterance whose channel has had so much speech before it."""
        return Wanted(self.voiceprint_s is None or before_ms < self.voiceprint_s * 1000, self.language)

    @property
    def are_endless(self) -> bool:
        """Whether something is wanted of every utterance."""
        return self.voiceprint_s is None or self.language


def needs_of(options: CallOptions, settings: Settings) -> Needs:
    """What a call needs."""
    tasks = set(known_tasks(options))
    is_endless = options.exhaustive or not settings.voiceprint_enough_s
    voiceprint_s = None if is_endless else settings.voiceprint_enough_s
    return Needs(voiceprint_s if tasks & _OF_VOICEPRINTS else 0.0, Technology.LANGUAGE_IDENTIFICATION in tasks)
