"""The models of the settings, and the way from an utterance to its voiceprint."""

import numpy as np
import numpy.typing as npt

from pipeline.models.errors import ModelError
from pipeline.models.manifest import Role, load_manifest
from pipeline.models.models import ModelSet
from pipeline.models.registry import OnProgress, fetch
from pipeline.scoring.voiceprint import SPEAKER_DIMENSION, VOICE_DIMENSION, Voiceprint, from_embeddings
from pipeline.settings import Settings


def load_models(settings: Settings, on_progress: OnProgress | None = None) -> ModelSet:
    """The models of the settings, fetched when they are not there. Raises ModelError."""
    manifest = load_manifest(settings.manifest_path)
    fetch(settings.cache_dir, on_progress=on_progress, manifest=manifest, language_size=settings.language_model)
    models = ModelSet.load(settings.cache_dir, settings.language_model, manifest, settings.execution)
    dimensions = [manifest.chosen(role).dimension for role in (Role.SPEAKER, Role.VOICE)]
    if dimensions != [SPEAKER_DIMENSION, VOICE_DIMENSION]:
        message = f"voiceprints hold {SPEAKER_DIMENSION} and {VOICE_DIMENSION} values, these models give {dimensions}"
        raise ModelError(message)
    return models


def voiceprint_of(
    models: ModelSet, samples: npt.NDArray[np.float32], speech_s: float, *, wants_voice: bool = True
) -> Voiceprint:
    """The voiceprint of an utterance: float32 (n,) in [-1, 1] at 16 kHz, n >= 1. Raises ValueError when it is empty.

    Without the voice embedding that half is zeros, and adds nothing to a sum of voiceprints.
    """
    voice = models.voice.embed(samples) if wants_voice else np.zeros(VOICE_DIMENSION, np.float32)
    return from_embeddings(models.speaker.embed(samples), voice, speech_s)
