"""The models of extraction on their threads: whatever must be made at once, and drafts while nothing else is to be made."""

import asyncio
import contextlib
from dataclasses import dataclass

import msgspec
import numpy as np

from pipeline.audio.resampling import to_wide
from pipeline.audio.vad import SAMPLE_RATES_HZ
from pipeline.inference_pool import inference_pool
from pipeline.models.models import ModelSet
from pipeline.scoring.extraction import voiceprint_of
from pipeline.scoring.languages import log_posteriors_of
from pipeline.scoring.voiceprint import pack
from schemas.stream import Print, Utterance


def extract(models: ModelSet, utterance: Utterance, wants_language: bool = True) -> Print:
    """What is wanted of one utterance, by the models. Raises ValueError when its audio does not fit its span, or its rate."""
    if utterance.sample_rate_hz not in SAMPLE_RATES_HZ:
        raise ValueError(f"speech is heard at 8000 or 16000 Hz, not {utterance.sample_rate_hz}")
    samples = np.frombuffer(utterance.audio, "<i2")
    if len(samples) != utterance.end_sample - utterance.start_sample or not len(samples):
        raise ValueError(
            f"{len(samples)} samples of audio for {utterance.end_sample - utterance.start_sample} samples of speech"
        )
    voiceprint = languages = None
    if utterance.wants_voiceprint or wants_language:
        wide = to_wide(samples.astype(np.int16), utterance.sample_rate_hz)
        if utterance.wants_voiceprint:
            voiceprint = pack(voiceprint_of(models, wide, utterance.speech_s, wants_voice=utterance.wants_voice))
        languages = log_posteriors_of(models.language, wide).astype("<f4").tobytes() if wants_language else None
    return Print(
        utterance.call_id,
        utterance.channel,
        utterance.start_sample,
        utterance.end_sample,
        utterance.sample_rate_hz,
        voiceprint,
        languages,
    )


@dataclass
class _Draft:
    utterance: Utterance
    wants_language: bool
    made: asyncio.Future[Print] | None = None  # once it was begun


class Extractor:
    """Makes prints of utterances.

    A draft is an utterance that pauses and may go on. It is begun when fewer than `least_busy` utterances and drafts are with
    the models; when its utterance comes, the print is there or under way. A print follows from its utterance alone, so it is
    the same either way. Only the newest draft of a channel is kept.
    """

    models: ModelSet  # to be given before the first utterance

    def __init__(self, threads: int, least_busy: int) -> None:
        self._least_busy = least_busy
        self._pool = inference_pool(threads, "extraction")
        self._in_work = 0
        self.drafts_begun = self.drafts_used = 0
        self._drafts: dict[tuple[str, int], _Draft] = {}  # by call and channel, the oldest first

    def close(self) -> None:
        """End the threads."""
        self._drafts.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def make(self, utterance: Utterance, wants_language: bool) -> Print:
        """The print of an utterance. Raises ValueError when its audio does not fit its span."""
        draft = self._drafts.pop((utterance.call_id, utterance.channel), None)
        if draft is not None and draft.made is not None and _serves(draft, utterance, wants_language):
            with contextlib.suppress(Exception):  # what is wrong shows below, as if there had been no draft
                made = await draft.made
                self.drafts_used += 1
                return made if wants_language else msgspec.structs.replace(made, languages=None)
        return await self._begin(utterance, wants_language)

    def draft(self, utterance: Utterance, wants_language: bool) -> None:
        """Get ahead with an utterance that may end as it is now, once there is nothing else to do."""
        key = utterance.call_id, utterance.channel
        if (known := self._drafts.get(key)) is not None and _serves(known, utterance, wants_language):
            return  # it was said again
        self._drafts.pop(key, None)
        self._drafts[key] = _Draft(utterance, wants_language)
        asyncio.get_running_loop().call_soon(self._get_ahead)  # behind the utterances that came with it

    def drop(self, call_id: str, channel: int) -> None:
        """The channel's utterance has come, so no draft of it is of use any more."""
        self._drafts.pop((call_id, channel), None)

    def drop_call(self, call_id: str) -> None:
        """The call has ended."""
        for key in [key for key in self._drafts if key[0] == call_id]:
            del self._drafts[key]

    def forget(self) -> None:
        """Drop all drafts."""
        self._drafts.clear()

    def _begin(self, utterance: Utterance, wants_language: bool) -> asyncio.Future[Print]:
        run = asyncio.get_running_loop().run_in_executor
        made = run(self._pool, extract, self.models, utterance, wants_language)
        self._in_work += 1
        made.add_done_callback(self._ended)
        return made

    def _ended(self, made: asyncio.Future[Print]) -> None:
        self._in_work -= 1
        if not made.cancelled():
            made.exception()  # a draft's may interest nobody, and is not to be logged as forgotten
        self._get_ahead()

    def _get_ahead(self) -> None:
        """Begin the oldest drafts, as far as models are idle."""
        for draft in [one for one in self._drafts.values() if one.made is None][: max(0, self._least_busy - self._in_work)]:
            draft.made = self._begin(draft.utterance, draft.wants_language)
            self.drafts_begun += 1


def _serves(draft: _Draft, utterance: Utterance, wants_language: bool) -> bool:
    """Whether what is made of the draft is all that is wanted of the utterance."""
    return draft.utterance == utterance and (draft.wants_language or not wants_language)
