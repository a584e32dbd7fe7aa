"""A call's `options` header."""

import msgspec

from pipeline.records import UNDECODABLE
from schemas.media import CallOptions, GivenOptions
from schemas.tasks import Technology

_DECODER = msgspec.json.Decoder(GivenOptions)


class OptionsError(ValueError):
    """The options cannot be followed; the call's tasks are rejected. `technologies` are those that were asked for."""

    def __init__(self, message: str, technologies: list[Technology]) -> None:
        super().__init__(message)
        self.technologies = technologies


MAX_OPTIONS_BYTES = 800_000  # they travel with the call in one record

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
        raise OptionsError(f"options has {size} bytes, more than {MAX_OPTIONS_BYTES}", BY_DEFAULT)
    try:
        options = _DECODER.decode(text)
    except msgspec.ValidationError as error:
        raise OptionsError(f"options: {error}", _named_technologies(text)) from None
    except UNDECODABLE as error:
        raise OptionsError(f"options is not JSON: {error}", BY_DEFAULT) from None
    if options.technologies is not None and not options.technologies:
        raise OptionsError("options: technologies is empty", BY_DEFAULT)
    return options


def _named_technologies(text: str) -> list[Technology]:
    """The technologies that faulty options name; all by default when they name none that exists."""
    try:
        named = msgspec.json.decode(text)
    except UNDECODABLE:
        return BY_DEFAULT
    listed = named.get("technologies") if isinstance(named, dict) else None
    known = [technology for technology in Technology if isinstance(listed, list) and technology.value in listed]
    return known or BY_DEFAULT


def known_tasks(options: CallOptions) -> list[Technology]:
    """The tasks that a call has for sure: those asked for; comparison only if there is something to compare with.

    Without references of its own a call is compared with the watch list, which only the comparison agent knows.
    """
    if options.technologies is not None:
        return list(dict.fromkeys(options.technologies))
    return BY_DEFAULT + ([Technology.VOICEPRINT_COMPARISON] if options.compare_with else [])
