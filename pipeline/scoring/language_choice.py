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
    """Why languages cannot be told apart as these options say: a detail for each fault, at its place in what the user wrote."""
    if options.languages == []:
        return [_fault(options, "the list of languages is empty", "language.none", "languages")]
    unknown = [
        _unknown(options, language, "languages", index)
        for index, language in enumerate(options.languages or [])
        if language not in LABELS
    ]
    return unknown + list(_group_faults(options)) + _prior_faults(options)


def _fault(options: CallOptions, message: str, kind: str, *at: int | str) -> ErrorDetail:
    if not options.is_file:
        return ErrorDetail(["options", *at], message, kind)
    named = {"language_groups": "groups", "language_priors": "languages"}  # in the `config` of a request with a file
    return ErrorDetail(["body", "config", *(named.get(str(one), one) for one in at)], message, kind)


def _unknown(options: CallOptions, language: str, *at: int | str) -> ErrorDetail:
    message = f"{language!r} is not a language that the model knows"
    alone = language.partition("-")[0].lower()
    if alone in LABELS:
        message += f"; it tells languages apart, not their regions or scripts: {alone!r}"
    return _fault(options, message, "language.unknown", *at)


def _group_faults(options: CallOptions) -> Iterator[ErrorDetail]:
    asked_for = None if options.languages is None else set(options.languages)
    for index, group in enumerate(options.language_groups):
        if group.identifier.lower() in LABELS:
            message = f"the group {group.identifier!r} has the name of a language"
            yield _fault(options, message, "group.invalid", "language_groups", index, "identifier")
        for place, language in enumerate(group.languages):
            at = "language_groups", index, "languages", place
            if language not in LABELS:
                yield _unknown(options, language, *at)
            elif asked_for is not None and language not in asked_for:
                yield _fault(options, f"{language!r} is not among the languages asked for", "group.invalid", *at)


def _prior_faults(options: CallOptions) -> list[ErrorDetail]:
    priors = options.language_priors
    unknown = [_unknown(options, one, "language_priors", one) for one in priors if one not in LABELS]
    if not unknown and all(priors.get(language) == 0 for language in allowed_languages(options)):
        return [_fault(options, "every language that is allowed weighs 0", "prior.invalid", "language_priors")]
    return unknown
