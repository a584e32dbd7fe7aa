"""From an utterance to its voiceprint."""

import numpy as np
import numpy.typing as npt

from pipeline.models.models import ModelSet
from pipeline.scoring.voiceprint import Voiceprint, from_embeddings


def voiceprint_of(models: ModelSet, samples: npt.NDArray[np.float32], speech_s: float) -> Voiceprint:
    """The voiceprint of an utterance: float32 (n,) in [-1, 1] at 16 kHz, n >= 1. Raises ValueError when it is empty."""
    return from_embeddings(models.speaker.embed(samples), models.voice.embed(samples), speech_s)
