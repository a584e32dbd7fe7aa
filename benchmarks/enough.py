"""How much speech of a channel is enough: what voiceprints and languages lose when models hear no more than its first seconds.

    python -m benchmarks.enough [SPEECH_DIR]

SPEECH_DIR (default ../shared/speech beside the repository) holds `clips.csv`. Voiceprints: half of a speaker's recordings, one
behind the other, against the other half and against those of others of the corpus, both sides limited alike, in several
orders; and the gender of each half. Languages: a channel is recordings of one corpus and language in a random order, and ends
early when its language is known. What to hold against is all of the speech.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple, TypeVar

import numpy as np
import soundfile

from benchmarks.machine import describe
from benchmarks.recordings import listed
from pipeline.accuracy import language_trials, measures
from pipeline.accuracy.audio import Band
from pipeline.accuracy.evaluation import Options
from pipeline.accuracy.fitting import balanced
from pipeline.accuracy.language_trials import Listener, Posteriors, trials
from pipeline.accuracy.manifest import Clip
from pipeline.accuracy.sessions import Condition, Session, chosen_clips, extractor, merged
from pipeline.accuracy.speech import enough
from pipeline.models.language import LABELS, MASKED_BY_DEFAULT
from pipeline.scoring.calibration import gender_llr
from pipeline.scoring.language_calibration import calibration_of
from pipeline.scoring.language_scorer import LanguageScorer
from pipeline.scoring.languages import LanguageEvidence
from pipeline.scoring.llr_matrix import comparison_llr
from pipeline.scoring.voiceprint import SPEAKER_DIMENSION, VOICE_DIMENSION, Voiceprint, from_embeddings
from pipeline.settings import Settings, default_cache_dir
from schemas.media import CallOptions

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

SIDE_S = 20.0  # of speech on each side, at least
CHANNEL_S = (40.0, 120.0)  # of speech, at least, and at most
ORDERS = 8
LANGUAGE_ORDERS = 40


class Limits(NamedTuple):
    """So much speech goes into a voiceprint, and so much of that into its voice embedding; 0: all."""

    voiceprint_s: float
    voice_s: float

    def __str__(self) -> str:
        return " | ".join(f"{limit_s:.0f}" if limit_s else "all" for limit_s in self)


NO_LIMITS = Limits(0.0, 0.0)
LIMITS = (
    *(Limits(enough_s, 0.0) for enough_s in (5.0, 10.0, 15.0, 20.0, 30.0)),
    *(Limits(30.0, voice_s) for voice_s in (3.0, 5.0, 8.0, 10.0, 15.0)),
    NO_LIMITS,
)


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """The items by their key."""
    found: dict[K, list[T]] = collections.defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return found


def side(sessions: Sequence[Session], limits: Limits) -> Voiceprint:
    """The voiceprint of a channel."""
    every = (utterance for session in sessions for utterance in session.utterances)
    taken = enough(every, limits.voiceprint_s, lambda one: one.speech_s)
    voiced = len(enough(taken, limits.voice_s, lambda one: one.speech_s))
    return merged([*taken[:voiced], *map(without_voice, taken[voiced:])])


def without_voice(voiceprint: Voiceprint) -> Voiceprint:
    """The voiceprint as extraction makes it when no voice embedding is wanted."""
    speaker = voiceprint.embedding[:SPEAKER_DIMENSION]
    return from_embeddings(speaker, np.zeros(VOICE_DIMENSION, np.float32), voiceprint.speech_s)


def talkative(clips: Sequence[Clip]) -> list[Clip]:
    """The recordings of speakers who may have spoken enough for both sides."""
    lengths_s: dict[tuple[str, str], float] = collections.defaultdict(float)
    for clip in clips:
        lengths_s[clip.corpus, clip.speaker] += soundfile.info(clip.path).duration
    return [clip for clip in clips if lengths_s[clip.corpus, clip.speaker] >= 2.2 * SIDE_S]


class Split(NamedTuple):
    """A speaker's recordings on both sides."""

    speaker: str
    a: list[Session]
    b: list[Session]


def splits(sessions: Sequence[Session]) -> Iterator[list[Split]]:
    """Of each corpus and order: the two sides of every speaker who has spoken enough for it."""
    for corpus in grouped(sessions, lambda one: one.corpus).values():
        speakers = grouped(corpus, lambda one: one.speaker)
        for order in range(ORDERS):
            generator, found = np.random.default_rng(order), []
            for name in sorted(speakers):
                mine = [speakers[name][place] for place in generator.permutation(len(speakers[name]))]
                split = Split(f"{mine[0].corpus}/{name}", mine[::2], mine[1::2])
                if all(half and side(half, NO_LIMITS).speech_s >= SIDE_S for half in (split.a, split.b)):
                    found.append(split)
            yield found


def voiceprint_row(band: Band, sessions: Sequence[Session], limits: Limits) -> str:
    """EER and Cllr at these limits, and how often the gender is right."""
    llr, target, speaker, used_s, is_right = [], [], [], [], []
    for split in splits(sessions):
        if split:
            a, b = [side(one.a, limits) for one in split], [side(one.b, limits) for one in split]
            llr.append(comparison_llr(a, b).ravel())
            target.append(np.eye(len(split), dtype=bool).ravel())
            speaker += [one.speaker for one in split for _ in split]
            used_s += [one.speech_s for one in (*a, *b)]
            is_right += genders_right(split, a) + genders_right(split, b)
    scores, targets = np.concatenate(llr).astype(np.float64), np.concatenate(target)
    weight = balanced(targets, np.unique(speaker, return_inverse=True)[1])
    eer = 100 * measures.equal_error_rate(scores, targets, weight)
    costs = measures.cllr(scores, targets, weight), measures.min_cllr(scores, targets, weight)
    count = len({name for name, is_target in zip(speaker, targets, strict=True) if is_target})
    shown = f"{np.mean(used_s):.1f} | {count} | {eer:.2f} | {costs[0]:.4f} | {costs[1]:.4f} | {100 * np.mean(is_right):.2f}"
    return f"| {band} | {limits} | {shown} |"


def genders_right(split: Sequence[Split], voiceprints: Sequence[Voiceprint]) -> list[bool]:
    """Whether the more probable gender is that of the speaker, where that is known."""
    genders = [one.a[0].gender for one in split]
    told = zip(genders, gender_llr(voiceprints).tolist(), strict=True)
    return [(llr > 0) == (gender == "m") for gender, llr in told if gender]


def channels(heard: Sequence[language_trials.Heard]) -> list[tuple[Clip, Posteriors]]:
    """Recordings of one corpus and language, one behind the other, in several orders."""
    found = []
    for mine in grouped(heard, lambda one: (one.clip.corpus, one.clip.language)).values():
        for order in range(LANGUAGE_ORDERS):
            places = np.random.default_rng(order).permutation(len(mine))
            every = [utterance for place in places for utterance in mine[place].whole]
            kept = enough(every, CHANNEL_S[1], itemgetter(1))
            if sum(speech_s for _, speech_s in kept) >= CHANNEL_S[0]:
                found.append((mine[0].clip, kept))
    return found


def until_known(every: Posteriors, scorer: LanguageScorer) -> Posteriors:
    """The utterances that are identified before the channel's language is known."""
    evidence, kept = LanguageEvidence(), []
    for log_posteriors, speech_s in every:
        kept.append((log_posteriors, speech_s))
        evidence.add(log_posteriors, speech_s)
        if scorer.is_enough(CallOptions(), evidence):
            break
    return kept


def language_row(band: Band, name: str, kept: Sequence[tuple[Clip, Posteriors]], settings: Settings) -> str:
    """Right answers from what is kept, each corpus and language counting the same."""
    allowed = [label for label in LABELS if label not in MASKED_BY_DEFAULT]
    scored = trials(kept, allowed, calibration_of(settings.language_model), settings.language_floor)
    right = scored.said == scored.language
    used_s = [sum(speech_s for _, speech_s in one) for _, one in kept]
    shares = f"{np.mean(used_s):.1f} | {np.percentile(used_s, 50):.1f} | {np.percentile(used_s, 90):.1f}"
    return f"| {band} | {name} | {shares} | {len(kept)} | {100 * right.mean():.2f} |"


def language_rows(band: Band, spoken: Sequence[tuple[Clip, Posteriors]]) -> list[str]:
    """Until the language is known at several probabilities, the first 30 s, and everything."""
    rows = []
    for probability in (0.9, 0.95, 0.99):
        settings = Settings(language_enough=probability)
        kept = [(clip, until_known(every, LanguageScorer(settings))) for clip, every in spoken]
        rows.append(language_row(band, f"{probability} after {settings.language_enough_s:.0f} s", kept, settings))
    first = [(clip, enough(every, 30.0, itemgetter(1))) for clip, every in spoken]
    return [*rows, language_row(band, "30 s", first, Settings()), language_row(band, "all", spoken, Settings())]


def main() -> None:
    """Print the tables, if there are recordings."""
    manifest = listed("clips.csv")
    if manifest is None:
        return
    options = Options(cache_dir=default_cache_dir(), resamples=0)
    print(describe() + "\n")
    print("| band | enough s | of that voice s | used s | speakers | EER % | Cllr bits | min Cllr bits | gender right % |")
    print("|---|---|---|---|---|---|---|---|---|")
    clips = talkative(chosen_clips(manifest, "speaker", limit=sys.maxsize))
    for band in Band:
        sessions = extractor(options).sessions(clips, Condition(band), lambda _: None, ())
        print("\n".join(voiceprint_row(band, sessions, limits) for limits in LIMITS), flush=True)
    print("\n| band | enough | used s, mean | median | 90 % | channels | right % |\n|---|---|---|---|---|---|---|")
    spoken = language_trials.chosen_clips(manifest, options.seed)
    for band in Band:
        heard = channels(Listener(options, ()).hear(spoken, band))
        print("\n".join(language_rows(band, heard)), flush=True)


if __name__ == "__main__":
    main()
