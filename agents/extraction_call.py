"""One call in the extraction agent: its channels' languages by now, and the receipts that a successor needs to know them."""

from __future__ import annotations

import math
import time

import numpy as np

from pipeline.delivery import Receipt
from pipeline.scoring.language_choice import language_faults
from pipeline.scoring.language_scorer import LanguageScorer
from pipeline.scoring.languages import LanguageEvidence
from schemas.stream import CallBegin, Utterance

_LONGEST_QUIET_S = 3600.0  # the agents behind let go of a call of which they have heard nothing for a day


class ExtractionCall:
    """A call in progress. The receipts of its begin, which may come again, are held to its end: a successor begins there."""

    def __init__(self, begin: CallBegin, scorer: LanguageScorer) -> None:
        self._options = begin.options
        self._scorer = scorer
        self.channels = range(begin.channels)
        self._evidence = [LanguageEvidence() for _ in self.channels]
        # a language task with faulty options is rejected, so that no channel has a language to be found
        self._known = set(self.channels) if language_faults(begin.options) else set()
        self._seen: set[tuple[int, int]] = set()
        self._receipts: list[Receipt] = []
        self._passed_on_s = time.monotonic()
        self.last_s = math.inf  # when its last record was dealt with; that may wait for Kafka as long as it takes

    def hold(self, receipt: Receipt) -> None:
        """Hold this receipt of the begin."""
        self._receipts.append(receipt)

    def busy(self) -> None:
        """A record of it is being dealt with."""
        self.last_s = math.inf

    def idle(self) -> None:
        """It is dealt with."""
        self.last_s = time.monotonic()

    def passed_on(self) -> None:
        """Something of it was passed on."""
        self._passed_on_s = time.monotonic()

    def owes_sign_of_life(self) -> bool:
        """Whether the agents behind have heard nothing of it for long, though it goes on."""
        return time.monotonic() - self._passed_on_s >= _LONGEST_QUIET_S

    def release(self) -> None:
        """Give the begin's offsets back."""
        for receipt in self._receipts:
            receipt.release()

    def wants_language(self, utterance: Utterance) -> bool:
        """Whether its language is to be identified: it is wanted, and the channel's is not known well enough."""
        return utterance.wants_language and utterance.channel not in self._known

    def add(self, utterance: Utterance, languages: bytes | None) -> None:
        """What was identified in it, by us or by who was before us; an utterance counts once."""
        place = (utterance.channel, utterance.start_sample)
        if languages is None or place in self._seen:
            return
        self._seen.add(place)
        evidence = self._evidence[utterance.channel]
        evidence.add(np.frombuffer(languages, "<f4"), utterance.speech_s)
        if self._scorer.is_enough(self._options, evidence):
            self._known.add(utterance.channel)
