"""From an utterance to its voiceprint."""

import numpy as np
import numpy.typing as npt

from pipeline.models.models import ModelSet
from pipeline.scoring.voiceprint import VOICE_DIMENSION, Voiceprint, from_embeddings


def voiceprint_of(
    models: ModelSet, samples: npt.NDArray[np.float32], speech_s: float, *, wants_voice: bool = True
) -> Voiceprint:
    """The voiceprint of an utterance: float32 (n,) in [-1, 1] at 16 kHz, n >= 1. Raises ValueError when it is empty.

    Without the voice embedding that half is zeros, and adds nothing to a sum of voiceprints.
    """
    voice = models.voice.embed(samples) if wants_voice else np.zeros(VOICE_DIMENSION, np.float32)
    return from_embeddings(models.speaker.embed(samples), voice, speech_s)
