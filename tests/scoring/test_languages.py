from decimal import Decimal

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.language import LABELS
from pipeline.scoring.languages import MIN_SPEECH_S, LanguageEvidence

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
