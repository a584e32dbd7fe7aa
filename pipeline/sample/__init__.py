"""The bundled sample: one phone call, two channels, two languages. `ATTRIBUTION.md` beside it names its sources."""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


def sample_path() -> Path:
    """The sample call: FLAC, 16 bit, 8000 Hz, channel 0 English, channel 1 French, under 90 s (CC BY-SA 3.0)."""
    return _FOLDER / "call.flac"


def attribution_path() -> Path:
    """Who recorded the sample, under which licence, and what was changed (Markdown)."""
    return _FOLDER / "ATTRIBUTION.md"
