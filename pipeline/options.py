"""A call's `options` header."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from pipeline.records import UNDECODABLE
from schemas.media import MAX_CORRELATION_ID_CHARS, MAX_OWNER_CHARS, CallOptions, GivenOptions, LanguageGroup
from schemas.tasks import Technology

_DECODER = msgspec.json.Decoder(GivenOptions)
_TOLERANT = msgspec.json.Decoder(CallOptions)  # of keys that a newer version knows
_PACKER = msgspec.msgpack.Encoder()


class Named(NamedTuple):
    """What faulty options name all the same: the technologies that were asked for, and whose request it was."""

    technologies: list[Technology]
    owner: str | None = None
    correlation_id: str | None = None
    request_id: str | None = None


class OptionsError(ValueError):
    """The options cannot be followed; the call's tasks are rejected. `named` is what they say of these."""

    def __init__(self, message: str, named: Named, location: Sequence[int | str] = (), kind: str = "options.invalid") -> None:
        """`location` is the place within the options, `kind` says for machines what is wrong there."""
        super().__init__(message)
        self.named = named
        self.location: list[int | str] = ["options", *location]
        self.type = kind


MAX_OPTIONS_BYTES = 800_000  # they travel with the call in one record
_HEADERS = ("correlation_id", "request_id", "owner")  # what becomes a header of results, or is shown with them
_MAX_LANGUAGE_CHARS = 3  # of a tag that is a language alone; longer ones are known to no model, and are told as they were spelt
_MAX_PACKED_BYTES = 1_000_000  # as they travel: numbers take more than in JSON, twice as much at most

BY_DEFAULT = [
    Technology.VOICE_ACTIVITY_DETECTION,
    Technology.VOICEPRINT_EXTRACTION,
    Technology.LANGUAGE_IDENTIFICATION,
    Technology.GENDER_IDENTIFICATION,
]


def read_options(text: str | None) -> CallOptions:
    """Read the header; all technologies by default. Raises OptionsError with one line that says what is wrong."""
    if text is None:
        return CallOptions()
    if (size := len(text.encode())) > MAX_OPTIONS_BYTES:
        raise OptionsError(f"options has {size} bytes, more than {MAX_OPTIONS_BYTES}", _named(text))
    try:
        options = _DECODER.decode(text)
    except msgspec.ValidationError as error:
        raise OptionsError(f"options: {_one_line(error)}", _named(text)) from None
    except UNDECODABLE as error:
        raise OptionsError(f"options is not JSON: {error}", Named(BY_DEFAULT)) from None
    if options.technologies is not None and not options.technologies:
        raise OptionsError("options: technologies is empty", _named(text))
    if 2 * size > _MAX_PACKED_BYTES < len(_PACKER.encode(options)):
        raise OptionsError(f"options takes more than {_MAX_PACKED_BYTES} bytes in a record", _named(text))
    for name in _HEADERS:
        if not (getattr(options, name) or "").isprintable():
            raise OptionsError(f"options: {name} has characters that cannot be printed", _named(text), [name])
    check_groups(options)
    return _canonical(options)


def read_options_again(text: str | None) -> CallOptions:
    """Read a header with which a call has begun, maybe by the rules of another version: only what cannot be read is refused."""
    try:
        return CallOptions() if text is None else _canonical(_TOLERANT.decode(text))
    except UNDECODABLE as error:
        raise OptionsError(f"options: {_one_line(error)}", _named(text or "")) from None


def _canonical(options: CallOptions) -> CallOptions:
    """With the names of languages in lower case, as RFC 5646 (2.1.1) spells them: their case means nothing.

    Of two weights for one language the smaller counts, as where a request's `config` has several.
    """
    priors: dict[str, float] = {}
    for tag, weight in options.language_priors.items():
        priors[_tag(tag)] = min(weight, priors.get(_tag(tag), weight))
    return msgspec.structs.replace(
        options,
        languages=None if options.languages is None else list(map(_tag, options.languages)),
        language_groups=[LanguageGroup(one.identifier, list(map(_tag, one.languages))) for one in options.language_groups],
        language_priors=priors,
    )


def _tag(tag: str) -> str:
    return tag.lower() if len(tag) <= _MAX_LANGUAGE_CHARS and tag.isascii() else tag


def check_channels(options: CallOptions, channels: int) -> None:
    """Channel numbers name each of the call's channels. Raises OptionsError."""
    numbers = options.channel_numbers
    if numbers is not None and len(numbers) != channels:
        message = f"channel_numbers has {len(numbers)} entries for {channels} channels"
        raise _fault(options, message, ["channel_numbers"], "channels.invalid")


def check_groups(options: CallOptions) -> None:
    """A language is in one group at most, and no group has the name of another, or of a language. Raises OptionsError."""
    options = _canonical(options)
    languages = {*(options.languages or []), *options.language_priors}
    languages.update(*(group.languages for group in options.language_groups))
    grouped: set[str] = set()
    names: set[str] = set()
    for index, group in enumerate(options.language_groups):
        at: list[int | str] = ["language_groups", index]
        if group.identifier in languages | names:
            what = "a language" if group.identifier in languages else "another group"
            message = f"the group {group.identifier!r} has the name of {what}"
            raise _fault(options, message, [*at, "identifier"], "group.invalid")
        names.add(group.identifier)
        for place, language in enumerate(group.languages):
            if language in grouped:
                raise _fault(options, f"{language!r} is grouped twice", [*at, "languages", place], "group.invalid")
            grouped.add(language)


def _fault(options: CallOptions, message: str, location: Sequence[int | str], kind: str) -> OptionsError:
    named = Named(known_tasks(options), options.owner, options.correlation_id, options.request_id)
    return OptionsError(f"options: {message}", named, location, kind)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _named(text: str) -> Named:
    """The technologies that faulty options name, all by default when they name none that exists; and whose they are."""
    try:
        named = msgspec.json.decode(text)
    except UNDECODABLE:
        return Named(BY_DEFAULT)
    if not isinstance(named, dict):
        return Named(BY_DEFAULT)
    listed = named.get("technologies")
    known = [technology for technology in Technology if isinstance(listed, list) and technology.value in listed]
    if not known:
        known = BY_DEFAULT + ([Technology.VOICEPRINT_COMPARISON] if named.get("compare_with") else [])
    ids = (_short(named, name, MAX_CORRELATION_ID_CHARS) for name in ("correlation_id", "request_id"))
    return Named(known, _short(named, "owner", MAX_OWNER_CHARS), *ids)


def _short(named: dict[str, object], name: str, most: int) -> str | None:
    value = named.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= most and value.isprintable() else None


def known_tasks(options: CallOptions) -> list[Technology]:
    """The tasks that a call has for sure: those asked for; comparison only if there is something to compare with.

    Without references of its own a call is compared with the watch list, which only the comparison agent knows.
    """
    if options.technologies is not None:
        return list(dict.fromkeys(options.technologies))
    return BY_DEFAULT + ([Technology.VOICEPRINT_COMPARISON] if options.compare_with else [])
