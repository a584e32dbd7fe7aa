from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.models.language import LABELS, MASKED_BY_DEFAULT
from pipeline.scoring.language_calibration import UNCALIBRATED, LanguageCalibration, calibration_of
from pipeline.scoring.language_choice import allowed_languages, language_faults
from pipeline.scoring.languages import MIN_SPEECH_S, LanguageEvidence
from schemas.media import CallOptions, LanguageGroup
from schemas.results import IdentifierType, LanguageOrGroupScore, LanguageScore

posteriors = st.lists(st.floats(0, 60), min_size=len(LABELS), max_size=len(LABELS)).map(
    lambda values: -np.array(values, np.float32) - np.float32(np.log(np.exp(-np.array(values)).sum()))
)


@given(
    st.lists(st.tuples(posteriors, st.floats(0.4, 15)), min_size=1, max_size=4), st.sets(st.sampled_from(LABELS), min_size=1)
)
def test_probabilities_have_five_decimals_and_sum_to_exactly_one(
    parts: list[tuple[np.ndarray, float]], allowed: set[str]
) -> None:
    evidence = LanguageEvidence()
    for log_posteriors, speech_s in parts:
        evidence.add(log_posteriors, speech_s)
    scores = evidence.scores(LABELS, sorted(allowed))
    exact = [Decimal(repr(score.probability)) for score in scores]
    assert sum(exact) == 1
    assert all(value == round(value, 5) for value in exact)
    assert exact == sorted(exact, reverse=True)
    assert {score.identifier for score in scores} <= allowed


def test_too_little_speech_has_no_scores() -> None:
    evidence = LanguageEvidence()
    evidence.add(np.zeros(len(LABELS), np.float32), MIN_SPEECH_S / 2)
    assert evidence.scores(LABELS, LABELS) == []
    evidence.add(np.zeros(0, np.float32), 100)
    assert evidence.scores(LABELS, LABELS) != []


def test_evidence_adds_up_over_utterances() -> None:
    evidence = LanguageEvidence()
    log_posteriors = np.full(len(LABELS), -50.0, np.float32)
    log_posteriors[LABELS.index("fr")], log_posteriors[LABELS.index("it")] = -0.1, -2.0
    evidence.add(log_posteriors, 1.0)
    log_posteriors[LABELS.index("fr")], log_posteriors[LABELS.index("it")] = -3.0, -0.05
    evidence.add(log_posteriors, 10.0)
    assert evidence.scores(LABELS, ["en", "fr", "it"])[0].identifier == "it"


@st.composite
def groupings(draw: st.DrawFn) -> list[LanguageGroup]:
    """Groups that share no language, some of whose members may not be allowed."""
    members = draw(st.lists(st.sampled_from(LABELS), min_size=1, max_size=12, unique=True))
    names = draw(st.lists(st.text(min_size=4, max_size=8), min_size=1, max_size=4, unique=True))
    groups = [LanguageGroup(name, members[index :: len(names)]) for index, name in enumerate(names)]
    return [group for group in groups if group.languages]


allowed_sets = st.lists(st.sampled_from(LABELS), min_size=1, max_size=30, unique=True)
weights = st.floats(0, 1)


def evidence_of(log_posteriors: np.ndarray) -> LanguageEvidence:
    evidence = LanguageEvidence()
    evidence.add(log_posteriors, 3.0)
    return evidence


def exact(score: LanguageScore) -> Decimal:
    """What is printed."""
    return Decimal(repr(score.probability))


@given(posteriors, allowed_sets, groupings(), st.dictionaries(st.sampled_from(LABELS), weights, max_size=20))
def test_groups_are_exact_sums_and_change_no_language(
    log_posteriors: np.ndarray, allowed: list[str], groups: list[LanguageGroup], priors: dict[str, float]
) -> None:
    assume(any(priors.get(language, 1) > 0 for language in allowed))
    evidence = evidence_of(log_posteriors)
    alone = {score.identifier: score.probability for score in evidence.scores(LABELS, allowed, priors=priors)}
    scores = evidence.scores(LABELS, allowed, groups, priors)
    assert sum(exact(score) for score in scores) == 1
    assert scores == sorted(scores, key=lambda score: (-score.probability, score.identifier))
    found: dict[str, float] = {}
    for score in scores:
        assert score.probability > 0
        if score.identifier_type is IdentifierType.LANGUAGE:
            assert score.languages is msgspec.UNSET
            found[score.identifier] = score.probability
            continue
        (group,) = [group for group in groups if group.identifier == score.identifier]
        assert isinstance(score.languages, list)
        assert exact(score) == sum(exact(member) for member in score.languages)
        assert score.languages == sorted(score.languages, key=lambda member: (-member.probability, member.identifier))
        assert {member.identifier for member in score.languages} <= set(group.languages)
        found |= {member.identifier: member.probability for member in score.languages}
    assert found == alone
    outside = {score.identifier for score in scores if score.identifier_type is IdentifierType.LANGUAGE}
    assert not outside & {language for group in groups for language in group.languages}


@given(posteriors, allowed_sets, st.sets(st.sampled_from(LABELS)))
def test_priors_of_one_change_nothing_and_of_zero_remove(
    log_posteriors: np.ndarray, allowed: list[str], removed: set[str]
) -> None:
    evidence = evidence_of(log_posteriors)
    plain = evidence.scores(LABELS, allowed)
    assert evidence.scores(LABELS, allowed, (), dict.fromkeys(LABELS, 1.0)) == plain
    kept = [language for language in allowed if language not in removed]
    assume(kept)
    assert evidence.scores(LABELS, allowed, (), dict.fromkeys(removed, 0.0)) == evidence.scores(LABELS, kept)


@given(posteriors, allowed_sets, st.floats(0.01, 1), st.data())
def test_priors_weigh_the_posteriors(
    log_posteriors: np.ndarray, allowed: list[str], weight: float, data: st.DataObject
) -> None:
    language = data.draw(st.sampled_from(allowed))
    evidence = evidence_of(log_posteriors)
    scores = {one.identifier: one.probability for one in evidence.scores(LABELS, allowed, priors={language: weight})}
    weighed = {one: np.exp(np.float64(log_posteriors[LABELS.index(one)])) for one in allowed}
    weighed[language] *= weight
    total = sum(weighed.values())
    assume(total > 1e-300)
    assert all(abs(scores.get(one, 0.0) - value / total) < 1.1e-5 for one, value in weighed.items())


def test_priors_that_are_all_tiny_are_weighed_all_the_same() -> None:
    log_posteriors = np.full(len(LABELS), -50.0, np.float32)
    scores = evidence_of(log_posteriors).scores(LABELS, ["en", "fr"], priors={"en": 5e-324, "fr": 5e-324})
    assert [(one.identifier, one.probability) for one in scores] == [("en", 0.5), ("fr", 0.5)]


def test_a_group_without_probability_is_left_out() -> None:
    log_posteriors = np.full(len(LABELS), -50.0, np.float32)
    log_posteriors[LABELS.index("en")] = -0.001
    groups = [LanguageGroup("romance", ["fr", "it"]), LanguageGroup("germanic", ["en", "de"])]
    (score,) = evidence_of(log_posteriors).scores(LABELS, ["en", "de", "fr", "it"], groups)
    assert score == LanguageOrGroupScore(
        "germanic", IdentifierType.GROUP, 1.0, [LanguageScore("en", IdentifierType.LANGUAGE, 1.0)]
    )


def faults(**options: Any) -> list[tuple[list[int | str], str]]:
    return [(fault.location[1:], fault.type) for fault in language_faults(msgspec.convert(options, CallOptions))]


def test_the_options_allow_languages() -> None:
    by_default = allowed_languages(CallOptions())
    assert set(by_default) == set(LABELS) - MASKED_BY_DEFAULT
    masked = CallOptions(language_groups=[LanguageGroup("classical", ["la", "it"])])
    assert allowed_languages(masked) == [*by_default, "la"]
    asked_for = CallOptions(languages=["fr", "en", "fr"], language_groups=[LanguageGroup("germanic", ["en"])])
    assert allowed_languages(asked_for) == ["fr", "en"]


def test_what_is_wrong_with_the_languages_is_said_where_it_is() -> None:
    groups = [{"identifier": "ours", "languages": ["en", "tlh"]}, {"identifier": "fr", "languages": ["it"]}]
    assert faults(languages=["en", "tlh", "it"], language_groups=groups, language_priors={"qya": 0.5}) == [
        (["languages", 1], "language.unknown"),
        (["language_groups", 0, "languages", 1], "language.unknown"),
        (["language_groups", 1, "identifier"], "group.invalid"),
        (["language_priors", "qya"], "language.unknown"),
    ]
    assert faults(languages=["en"], language_groups=[{"identifier": "ours", "languages": ["en", "it"]}]) == [
        (["language_groups", 0, "languages", 1], "group.invalid")
    ]
    assert faults(languages=["en", "fr"], language_priors={"en": 0, "fr": 0, "it": 1}) == [
        (["language_priors"], "prior.invalid")
    ]
    assert faults(language_priors=dict.fromkeys(LABELS, 0)) == [(["language_priors"], "prior.invalid")]
    assert faults(languages=[]) == [(["languages"], "language.none")]
    assert faults(languages=["en", "fr"], language_priors={"en": 0}) == []


def spoken(*parts: tuple[np.ndarray, float]) -> LanguageEvidence:
    evidence = LanguageEvidence()
    for log_posteriors, speech_s in parts:
        evidence.add(log_posteriors, speech_s)
    return evidence


@given(posteriors, st.floats(0.4, 60), st.floats(1.0, 3.0))
def test_the_sharper_the_surer_of_the_same_language(log_posteriors: np.ndarray, speech_s: float, factor: float) -> None:
    evidence = spoken((log_posteriors, speech_s))
    mild, sharp = (evidence.scores(LABELS, LABELS, calibration=LanguageCalibration(scale, 0.0)) for scale in (1.0, factor))
    assert sharp[0].probability >= mild[0].probability - 1e-5
    best = LABELS[int(log_posteriors.argmax())]
    assert best in {score.identifier for score in sharp if score.probability >= sharp[0].probability - 1e-5}


def test_more_speech_counts_for_more_where_the_exponent_says_so() -> None:
    calibration = LanguageCalibration(scale=2.0, exponent=0.5, longest_s=16.0)
    assert [calibration.sharpness(speech_s) for speech_s in (0.5, 1.0, 4.0, 16.0, 100.0)] == [2.0, 2.0, 4.0, 8.0, 8.0]


@given(st.lists(st.tuples(posteriors, st.floats(0.4, 15)), min_size=2, max_size=4))
def test_in_which_order_utterances_come_is_the_same(parts: list[tuple[np.ndarray, float]]) -> None:
    forth, back = (dict(_probabilities(spoken(*order))) for order in (parts, parts[::-1]))
    assert all(abs(forth.get(name, 0) - back.get(name, 0)) < 2.5e-5 for name in forth.keys() | back.keys())


def _probabilities(evidence: LanguageEvidence) -> list[tuple[str, float]]:
    return [(score.identifier, score.probability) for score in evidence.scores(LABELS, LABELS)]


@given(posteriors, st.floats(0.4, 60), st.floats(0.01, 0.99))
def test_below_the_floor_the_language_is_unknown_whatever_was_allowed(
    log_posteriors: np.ndarray, speech_s: float, floor: float
) -> None:
    top = float(np.exp(log_posteriors - np.logaddexp.reduce(log_posteriors)).max())
    assume(abs(top - floor) > 1e-3)
    evidence = spoken((log_posteriors, speech_s))
    for allowed in (LABELS, LABELS[:2]):
        assert bool(evidence.scores(LABELS, allowed, floor=floor)) == (top > floor)


def test_what_is_like_a_language_that_was_not_asked_for_is_told_among_those_that_were() -> None:
    log_posteriors = np.full(len(LABELS), -20.0, np.float32)
    log_posteriors[LABELS.index("ml")], log_posteriors[LABELS.index("it")] = -0.01, -9.0
    scores = spoken((log_posteriors, 5.0)).scores(LABELS, ["en", "it"], floor=0.3)
    assert scores[0].identifier == "it"


@pytest.mark.parametrize("size", ["tiny", "base", "small"])
def test_every_size_is_calibrated_and_says_where_from(size: str) -> None:
    calibration = calibration_of(size)
    assert 0.5 < calibration.sharpness(3.0) < 2.0
    assert calibration.provenance is not None
    assert set(calibration.provenance.data) == {"librispeech_mini", "speechocean762", "dspspeech_zh", "arabic_commands"}
    assert calibration.provenance.cross_entropy_bits <= calibration.provenance.uncalibrated_bits


def test_a_model_of_ones_own_is_not_calibrated() -> None:
    assert calibration_of("huge") == UNCALIBRATED


@given(posteriors, st.floats(0.4, 15), st.integers(1, 400))
def test_utterances_that_are_too_short_to_be_identified_change_no_probability(
    log_posteriors: np.ndarray, speech_s: float, count: int
) -> None:
    """They count as speech only, however many there are: a channel of short answers is as sure as what was identified."""
    alone, among = LanguageEvidence(), LanguageEvidence()
    for evidence in (alone, among):
        evidence.add(log_posteriors, speech_s)
    for _ in range(count):
        among.add(np.zeros(0, np.float32), MIN_SPEECH_S / 2)
    calibration = LanguageCalibration(scale=1.0, exponent=0.5)
    assert among.scores(LABELS, LABELS, calibration=calibration) == alone.scores(LABELS, LABELS, calibration=calibration)
    assert among.speech_s == pytest.approx(speech_s + count * MIN_SPEECH_S / 2)
