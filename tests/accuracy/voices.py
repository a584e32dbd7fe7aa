"""Sessions of made-up speakers, whose voiceprints are as far apart as is asked for."""

from __future__ import annotations

import numpy as np

from pipeline.accuracy.sessions import SHORT_S, Session
from pipeline.scoring.voiceprint import DIMENSION, SPEAKER_DIMENSION, Voiceprint, from_embeddings


def sessions(
    corpus: str, speakers: int, each: int, seed: int, *, spread: float = 1.0, moved: float = 0.0, gender: bool = True
) -> list[Session]:
    """`each` sessions of every speaker; `spread` is the noise of a session, `moved` what all have in common."""
    generator = np.random.default_rng(seed)
    common = moved * np.random.default_rng(0).standard_normal(DIMENSION)
    made = []
    for number in range(speakers):
        male = number % 2 == 0
        voice = generator.standard_normal(DIMENSION) + common
        voice[SPEAKER_DIMENSION : SPEAKER_DIMENSION + 8] += 3.0 if male else -3.0
        for _ in range(each):
            heard = [voiceprint(voice, spread, speech_s, generator) for speech_s in (4.0, 3.0)]
            first = {speech_s: voiceprint(voice, spread, speech_s, generator) for speech_s in SHORT_S}
            made.append(Session(corpus, f"{corpus}{number}", ("m" if male else "f") if gender else "", heard, first))
    return made


def voiceprint(voice: np.ndarray, spread: float, speech_s: float, generator: np.random.Generator) -> Voiceprint:
    """The less speech, the noisier."""
    heard = (voice + spread * generator.standard_normal(DIMENSION) * (1 + 2 / speech_s)).astype(np.float32)
    return from_embeddings(heard[:SPEAKER_DIMENSION], heard[SPEAKER_DIMENSION:], speech_s)
