"""The accurate voice activity detector, opened."""

from __future__ import annotations

from pathlib import Path

from pipeline.models.manifest import Role, load_manifest
from pipeline.models.registry import fetch
from pipeline.models.silero import SileroVad


def load_vad(cache_dir: Path | str, manifest_path: Path | None = None) -> SileroVad:
    """The detector of a manifest, fetched when it is not there. Raises ModelError."""
    manifest = load_manifest(manifest_path)
    name = manifest.chosen(Role.VAD).name
    return SileroVad(fetch(cache_dir, [name], manifest=manifest)[name][0])
