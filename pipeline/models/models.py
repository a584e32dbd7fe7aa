"""The models that a worker needs, opened."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pipeline.models import convert_campplus
from pipeline.models.errors import ModelError
from pipeline.models.execution import ALONE, Execution
from pipeline.models.gender_encoder import VoiceEncoder
from pipeline.models.language import LanguageIdentifier
from pipeline.models.manifest import Conversion, Manifest, Model, Role, load_manifest
from pipeline.models.speaker import SpeakerEncoder
from pipeline.models.store import ModelState, model_paths, state_of


def open_speaker(model: Model, paths: Sequence[Path], execution: Execution = ALONE) -> SpeakerEncoder:
    """The speaker model from its file; one that is not CAM++ makes no batches. Raises ModelError."""
    (file,) = model.files
    add_lengths = convert_campplus.add_lengths if file.conversion is Conversion.CAMPPLUS else None
    return SpeakerEncoder(paths[0], model.features, file.inputs[0], file.outputs[0], execution, add_lengths)


def open_voice(model: Model, paths: Sequence[Path], execution: Execution = ALONE) -> VoiceEncoder:
    """The voice model from its file. Raises ModelError."""
    (file,) = model.files
    return VoiceEncoder(paths[0], model.features.bins, file.inputs[0], file.outputs[0], execution=execution)


def open_language(model: Model, paths: Sequence[Path], execution: Execution = ALONE) -> LanguageIdentifier:
    """The language model from its encoder's and its decoder's file. Raises ModelError."""
    encoder, decoder = model.files
    encoder_names, decoder_names = ((file.inputs[0], file.outputs[0]) for file in (encoder, decoder))
    return LanguageIdentifier(paths[0], paths[1], model.features.bins, encoder_names, decoder_names, execution)


@dataclasses.dataclass(frozen=True)
class ModelSet:
    """One model of each role; each is thread-safe. `speaker_name` says whose voiceprints these are."""

    speaker: SpeakerEncoder
    voice: VoiceEncoder
    language: LanguageIdentifier
    silero_path: Path
    speaker_name: str

    @classmethod
    def load(
        cls,
        cache_dir: Path | str,
        language_size: str = "base",
        manifest: Manifest | None = None,
        execution: Execution = ALONE,
    ) -> ModelSet:
        """Open the models that `registry.fetch` put there. Raises ModelError when one is missing or wrong, or its provider."""
        manifest = manifest or load_manifest()
        chosen = {role: manifest.chosen(role, language_size) for role in Role}
        missing = [model.name for model in chosen.values() if state_of(cache_dir, model) is not ModelState.READY]
        if missing:
            raise ModelError(f"models {', '.join(missing)} are not in {cache_dir}: run `callstream models fetch`")
        paths = {role: model_paths(cache_dir, model) for role, model in chosen.items()}
        return cls(
            speaker=open_speaker(chosen[Role.SPEAKER], paths[Role.SPEAKER], execution),
            voice=open_voice(chosen[Role.VOICE], paths[Role.VOICE], execution),
            language=open_language(chosen[Role.LANGUAGE], paths[Role.LANGUAGE], execution),
            silero_path=paths[Role.VAD][0],
            speaker_name=chosen[Role.SPEAKER].name,
        )
