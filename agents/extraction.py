"""Voiceprint extraction: utterances in, their voiceprints and languageprints out on `prints`; and the task itself.

`ExtractionStage` is the one heavy stage; what it makes of an utterance depends on those before it in its channel only by their
languages: when these are known, no more are identified. `VoiceprintStage` adds up a call's prints.
"""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from agents.call_stage import CallStage, add_voiceprint, longest_silence_s, warn_of_late_begin
from agents.extraction_call import ExtractionCall
from agents.extractor import Extractor
from pipeline.delivery import Receipt
from pipeline.print_index import PrintIndex
from pipeline.records import UNDECODABLE, DeadLetterError, OutgoingRecord, Record, headers_of
from pipeline.scoring.extraction import load_models
from pipeline.scoring.language_scorer import LanguageScorer
from pipeline.scoring.voiceprint import MODEL, VoiceprintSum, encode
from pipeline.settings import Settings
from pipeline.stage import Frame, Stage
from schemas.errors import DeadLetterType
from schemas.media import MAX_CHANNELS, Header
from schemas.results import VoiceprintChannel, VoiceprintResult
from schemas.stream import CallBegin, CallEnd, Draft, Fault, Print, PrintRecord, Said, SpeechRecord, Utterance
from schemas.tasks import Technology

_DECODER: msgspec.msgpack.Decoder[SpeechRecord] = msgspec.msgpack.Decoder(SpeechRecord)
_ENCODER = msgspec.msgpack.Encoder()


class ExtractionStage:
    """From utterances to prints."""

    name = "extraction"
    topics: tuple[str, ...] = ("speech",)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._index = PrintIndex(settings)
        self._scorer = LanguageScorer(settings)
        self._calls: dict[str, ExtractionCall] = {}
        # Whoever waits for others to fill a batch takes a thread.
        threads = max(settings.inference_threads, settings.in_flight if settings.execution.is_batched else 1)
        self._extractor = Extractor(threads, settings.inference_threads)

    async def start(self, frame: Frame) -> None:
        """Load the models."""
        self._publisher = frame.publisher
        self._extractor.models = await asyncio.to_thread(load_models, self._settings)

    async def stop(self) -> None:
        """End the threads."""
        self._extractor.close()

    def counts(self) -> dict[str, int]:
        """Drafts that models heard, and those whose utterance ended as they did."""
        return {"drafts_begun": self._extractor.drafts_begun, "drafts_used": self._extractor.drafts_used}

    def forget(self) -> None:
        """Which prints are there has to be read again, and so have the calls."""
        self._index.forget()
        self._calls.clear()
        self._extractor.forget()

    async def tick(self) -> None:
        """Let go of calls whose end will not come."""
        since_s = time.monotonic() - longest_silence_s(self._settings)
        for call_id in [call_id for call_id, call in self._calls.items() if call.last_s < since_s]:
            warn_of_late_begin(self.name, call_id)
            self._let_go(call_id)

    async def process(self, record: Record, receipt: Receipt) -> None:
        """Extract one utterance; pass on what begins and ends a call. What was passed on already is not done again."""
        try:
            speech = _DECODER.decode(record.value or b"")
        except UNDECODABLE as error:
            raise DeadLetterError(DeadLetterType.RECORD_INVALID, f"not a speech record: {error}") from None
        if isinstance(speech, CallBegin) and not 1 <= speech.channels <= MAX_CHANNELS:
            # What is kept for each channel would take all memory, and the worker with it, again and again.
            raise DeadLetterError(DeadLetterType.RECORD_INVALID, f"not a speech record: a call of {speech.channels} channels")
        if isinstance(speech, Draft):
            await self._get_ahead(record, speech.utterance)
            receipt.release()
            return
        if (call := self._calls.get(speech.call_id)) is not None:
            call.busy()
        is_held = isinstance(speech, CallBegin) and await self._open(speech, record, receipt)
        await self._pass_on(record, speech)
        if isinstance(speech, Utterance):
            self._extractor.drop(speech.call_id, speech.channel)
        if isinstance(speech, CallEnd | Fault):
            self._let_go(speech.call_id)
        if (call := self._calls.get(speech.call_id)) is not None:
            call.idle()
        if not is_held:
            receipt.release()

    async def _get_ahead(self, record: Record, utterance: Utterance) -> None:
        """Begin what will be wanted of it if it ends as it is now; nothing of one whose print is there, as in a replay."""
        call = self._calls.get(utterance.call_id)
        if call is None or utterance.channel not in call.channels or await self._index.holds(record, utterance):
            return
        wants_language = call.wants_language(utterance)
        if wants_language or utterance.wants_voiceprint:
            self._extractor.draft(utterance, wants_language)

    async def _pass_on(self, record: Record, speech: Said) -> None:
        """Make what is wanted, and pass it on.

        An utterance of which nothing is wanted leaves nothing, but for a sign of life now and then: whoever meets it again
        comes to the same, as the languages of its call are known then too. Behind its call's end nothing is made of it at all.
        """
        if await self._is_dealt_with(record, speech):
            if isinstance(speech, Utterance):
                self._add(speech, await self._index.languages_of(record, speech))
        elif (made := await self._made(speech)) is not None:
            await self._publish(record, record.value if made is speech else _ENCODER.encode(made))
            await self._index.note(record, made)
            if (call := self._calls.get(speech.call_id)) is not None:
                call.passed_on()

    async def _open(self, begin: CallBegin, record: Record, receipt: Receipt) -> bool:
        """Whether the receipt is held from now on: not of a call that has ended, for it will not end again."""
        if begin.call_id not in self._calls:
            if await self._index.has_ended(record, begin.call_id):
                return False
            self._calls[begin.call_id] = ExtractionCall(begin, self._scorer)
        self._calls[begin.call_id].hold(receipt)
        return True

    async def _is_dealt_with(self, record: Record, speech: Said) -> bool:
        if await self._index.holds(record, speech):
            return True
        is_late = isinstance(speech, Utterance | CallBegin) and speech.call_id not in self._calls
        return is_late and await self._index.has_ended(record, speech.call_id)

    async def _made(self, speech: Said) -> PrintRecord | None:
        if not isinstance(speech, Utterance):
            return speech
        call = self._calls.get(speech.call_id)
        wants_language = speech.wants_language if call is None else call.wants_language(speech)
        if not (wants_language or speech.wants_voiceprint or (call is not None and call.owes_sign_of_life())):
            return None
        made = await self._extractor.make(speech, wants_language)
        self._add(speech, made.languages)
        return made

    def _add(self, utterance: Utterance, languages: bytes | None) -> None:
        if (call := self._calls.get(utterance.call_id)) is not None:
            call.add(utterance, languages)

    def _let_go(self, call_id: str) -> None:
        if (call := self._calls.pop(call_id, None)) is not None:
            call.release()
        self._extractor.drop_call(call_id)

    async def fail(self, record: Record, message: str) -> None:
        """Tell the agents behind that this call cannot be heard to its end."""
        call_id = (record.key or b"").decode(errors="replace")
        fault = Fault(call_id, message)
        await self._publish(record, _ENCODER.encode(fault))
        await self._index.note(record, fault)
        self._let_go(call_id)

    async def _publish(self, record: Record, value: bytes | None) -> None:
        source = headers_of({Header.SOURCE: record.source})
        await self._publisher.publish([OutgoingRecord("prints", record.key, value, source, partition=record.partition)])


class VoiceprintStage(CallStage[list[VoiceprintSum]]):
    """Adds up the voiceprints of a call's channels."""

    name = "voiceprints"
    technology = Technology.VOICEPRINT_EXTRACTION

    def new_evidence(self, begin: CallBegin) -> list[VoiceprintSum]:
        """A sum for each channel."""
        return [VoiceprintSum() for _ in range(begin.channels)]

    def add(self, evidence: list[VoiceprintSum], heard: Print) -> bool:
        """Add an utterance to its channel."""
        return add_voiceprint(evidence, heard)

    def result(self, begin: CallBegin, evidence: list[VoiceprintSum]) -> VoiceprintResult:
        """One voiceprint for each channel, an empty one where there was no speech."""
        return VoiceprintResult(
            [
                VoiceprintChannel(begin.options.channel_number(number), encode(one.merged()), round(one.speech_s, 3), MODEL)
                for number, one in enumerate(evidence)
            ]
        )


def stages(settings: Settings) -> Sequence[Stage]:
    """The stages of this agent."""
    return [ExtractionStage(settings), VoiceprintStage(settings)]
