"""What a request with a media file asks for: the query's parameters and the form's `config`, checked, as a MediaRequest."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, TypeVar

import msgspec

from pipeline.query.errors import RequestRefusedError, request_invalid, validation_failed
from pipeline.query.validation import read_number
from schemas.errors import DetailType, ErrorDetail
from schemas.media import CallOptions, LanguageGroup
from schemas.requests import BlobRef, ChannelMode, MediaRequest
from schemas.tasks import Technology

# those that add up speech can be told how much is enough
CAPPED = (Technology.VOICEPRINT_EXTRACTION, Technology.LANGUAGE_IDENTIFICATION)
MAX_TIME_S = 604_800.0
CHANNELS = re.compile(r"[0-9]{1,4}(?:,[0-9]{1,4}){0,255}", re.ASCII)

T = TypeVar("T")


class WeightedLanguage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A language (RFC 5646 tag) and its prior weight, 1 where none is given, the smallest where several are."""

    identifier: str
    prior_weight: Annotated[float, msgspec.Meta(ge=0, le=1)] | msgspec.UnsetType = msgspec.UNSET


class ConfiguredGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Languages that are scored together."""

    identifier: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    languages: Annotated[list[str | WeightedLanguage], msgspec.Meta(min_length=1, max_length=200)]


class LanguageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`config` of language identification: the languages that are allowed (all by default), and groups of them."""

    languages: Annotated[list[str | WeightedLanguage], msgspec.Meta(min_length=1, max_length=200)] | None = None
    groups: Annotated[list[ConfiguredGroup], msgspec.Meta(max_length=200)] = []


class NoConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`config` of what has nothing to configure."""


CONFIGS: dict[Technology, type[LanguageConfig] | type[NoConfig]] = {
    Technology.VOICE_ACTIVITY_DETECTION: NoConfig,
    Technology.VOICEPRINT_EXTRACTION: NoConfig,
    Technology.LANGUAGE_IDENTIFICATION: LanguageConfig,
}


class MediaParameters(msgspec.Struct, frozen=True):
    """The parameters of the query. Times and lengths are seconds."""

    channel_mode: ChannelMode = ChannelMode.SPLIT
    channels: list[int] | None = None
    range_from: float = 0.0
    range_to: float | None = None
    max_speech_length: float | None = None


class _Query:
    """The query's values, and what is wrong with them."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.details: list[ErrorDetail] = []

    def fault(self, name: str, message: str) -> None:
        self.details.append(ErrorDetail(["query", name], message, DetailType.VALUE_INVALID))

    def seconds(self, name: str, default: T, least: float, *, is_open: bool = False) -> float | T:
        text = self._values.get(name)
        if text is None:
            return default
        value = read_number(text)
        if value is not None and least <= value <= MAX_TIME_S and not (is_open and value == least):
            return value
        bound = f"{'above' if is_open else 'of at least'} {least:g} and at most {MAX_TIME_S:g}"
        self.fault(name, f"A number of seconds {bound} is needed.")
        return default

    def channel_mode(self) -> ChannelMode:
        text = self._values.get("channel_mode", ChannelMode.SPLIT)
        if text not in list(ChannelMode):
            self.fault("channel_mode", "channel_mode is split or mix.")
            return ChannelMode.SPLIT
        return ChannelMode(text)

    def channels(self) -> list[int] | None:
        text = self._values.get("channels", "")
        if not text:
            return None
        if not CHANNELS.fullmatch(text):
            self.fault("channels", "Channel numbers are needed, separated by commas.")
            return None
        return sorted({int(one) for one in text.split(",")})


def read_parameters(technology: Technology, values: Mapping[str, str]) -> MediaParameters:
    """The query of a request that starts from a file. Raises RequestRefusedError (422) with one detail a fault."""
    query = _Query(values)
    range_from = query.seconds("range_from", 0.0, 0.0)
    range_to = query.seconds("range_to", None, 0.0, is_open=True)
    enough = query.seconds("max_speech_length", None, 0.0, is_open=True) if technology in CAPPED else None
    parameters = MediaParameters(query.channel_mode(), query.channels(), range_from, range_to, enough)
    if query.details:
        raise validation_failed(query.details)
    return parameters


def read_config(technology: Technology, text: bytes | None) -> CallOptions:
    """The form's `config` as options of the call. Raises RequestRefusedError: 400 when it is no JSON, 422 when it is wrong."""
    options = CallOptions(technologies=[technology], is_file=True)
    if text is None or not text.strip():
        return options
    try:
        msgspec.json.decode(text, type=msgspec.Raw)  # no JSON, before it is the wrong JSON
        config = msgspec.json.decode(text, type=CONFIGS[technology])
    except msgspec.ValidationError as error:
        raise validation_failed([_config_fault(str(error))]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise request_invalid() from None
    if isinstance(config, NoConfig):
        return options
    return msgspec.structs.replace(options, **_language_options(config))


def read_asked(technology: Technology, values: Mapping[str, str], config: bytes | None) -> tuple[MediaParameters, CallOptions]:
    """The query and the form's `config`. Raises RequestRefusedError: 400 when config is no JSON, 422 with all faults."""
    parameters, options, details = MediaParameters(), CallOptions(), []
    try:
        parameters = read_parameters(technology, values)
    except RequestRefusedError as refusal:
        details += refusal.error.detail
    try:
        options = read_config(technology, config)
    except RequestRefusedError as refusal:
        if refusal.status is not HTTPStatus.UNPROCESSABLE_ENTITY:
            raise
        details += refusal.error.detail
    if details:
        raise validation_failed(details)
    return parameters, options


def _config_fault(message: str) -> ErrorDetail:
    kind = DetailType.KEY_UNKNOWN if "unknown field" in message else DetailType.VALUE_INVALID
    return ErrorDetail(["body", "config"], f"{message[:400]}.", kind)


def _language_options(config: LanguageConfig) -> dict[str, object]:
    priors: dict[str, float] = {}
    allowed = None if config.languages is None else _named(config.languages, priors)
    groups = [LanguageGroup(group.identifier, _named(group.languages, priors)) for group in config.groups]
    if allowed is not None:
        allowed = list(dict.fromkeys([*allowed, *(one for group in groups for one in group.languages)]))
    weights = {language: weight for language, weight in priors.items() if weight != 1.0}
    return {"languages": allowed, "language_groups": groups, "language_priors": weights}


def _named(languages: list[str | WeightedLanguage], priors: dict[str, float]) -> list[str]:
    for language in languages:
        if isinstance(language, str) or isinstance(language.prior_weight, msgspec.UnsetType):
            continue
        priors[language.identifier] = min(language.prior_weight, priors.get(language.identifier, 1.0))
    return [language if isinstance(language, str) else language.identifier for language in languages]


def media_request(call_id: str, file: BlobRef, parameters: MediaParameters, options: CallOptions) -> MediaRequest:
    """All of it together."""
    options = msgspec.structs.replace(options, max_speech_length=parameters.max_speech_length)
    return MediaRequest(
        call_id,
        file,
        parameters.channel_mode,
        parameters.channels,
        parameters.range_from,
        parameters.range_to,
        options,
    )
