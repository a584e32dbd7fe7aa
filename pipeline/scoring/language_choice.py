"""Among which languages a call's are told apart: the languages, groups and prior weights of its options, and their faults."""

from collections.abc import Iterator

from pipeline.models.language import LABELS, MASKED_BY_DEFAULT
from schemas.errors import ErrorDetail
from schemas.media import CallOptions

_BY_DEFAULT = [label for label in LABELS if label not in MASKED_BY_DEFAULT]


def allowed_languages(options: CallOptions) -> list[str]:
    """The languages that were asked for; else those by default, and those of the groups."""
    grouped = [language for group in options.language_groups for language in group.languages]
    return list(dict.fromkeys(options.languages or [*_BY_DEFAULT, *grouped]))


def language_faults(options: CallOptions) -> list[ErrorDetail]:
    """Why languages cannot be told apart as these options say: one detail for each fault."""
    if options.languages == []:
        return [ErrorDetail(["options", "languages"], "the list of languages is empty", "language.none")]
    unknown = [
        _unknown(language, "languages", index)
        for index, language in enumerate(options.languages or [])
        if language not in LABELS
    ]
    return unknown + list(_group_faults(options)) + _prior_faults(options)


def _unknown(language: str, *location: int | str) -> ErrorDetail:
    message = f"{language!r} is not a language that the model knows"
    alone = language.partition("-")[0].lower()
    if alone in LABELS:
        message += f"; it tells languages apart, not their regions or scripts: {alone!r}"
    return ErrorDetail(["options", *location], message, "language.unknown")


def _group_faults(options: CallOptions) -> Iterator[ErrorDetail]:
    asked_for = None if options.languages is None else set(options.languages)
    for index, group in enumerate(options.language_groups):
        if group.identifier in LABELS:
            message = f"the group {group.identifier!r} has the name of a language"
            yield ErrorDetail(["options", "language_groups", index, "identifier"], message, "group.invalid")
        for place, language in enumerate(group.languages):
            at: list[int | str] = ["language_groups", index, "languages", place]
            if language not in LABELS:
                yield _unknown(language, *at)
            elif asked_for is not None and language not in asked_for:
                yield ErrorDetail(["options", *at], f"{language!r} is not among the languages asked for", "group.invalid")


def _prior_faults(options: CallOptions) -> list[ErrorDetail]:
    priors = options.language_priors
    unknown = [_unknown(language, "language_priors", language) for language in priors if language not in LABELS]
    if not unknown and all(priors.get(language) == 0 for language in allowed_languages(options)):
        message = "every language that is allowed weighs 0"
        return [ErrorDetail(["options", "language_priors"], message, "prior.invalid")]
    return unknown
