"""The bundled sample: one phone call, two channels, two languages, a woman and a man; `ATTRIBUTION.md` names its sources."""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


def sample_path() -> Path:
    """The sample call: FLAC, 16 bit, 8000 Hz, under 90 s; channel 0 English, a woman; channel 1 Italian, a man.

    It is licensed under CC BY-SA 3.0.
    """
    return _FOLDER / "call.flac"


def attribution_path() -> Path:
    """Who recorded the sample, under which licence, and what was changed (Markdown)."""
    return _FOLDER / "ATTRIBUTION.md"
