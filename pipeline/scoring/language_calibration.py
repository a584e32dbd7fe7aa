"""How far a channel's mean log posteriors are to be believed, for each size of the language model.

`training/train_languages.py` makes `weights/language.json`.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Annotated

import msgspec
from msgspec import Meta


class LanguageProvenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a calibration was made from."""

    script: str
    date: str
    seed: int
    data: dict[str, int]  # recordings of each corpus
    examples: int  # channels: each recording in both bands, at several lengths of speech
    cross_entropy_bits: float  # on these examples, and before calibration
    uncalibrated_bits: float


class LanguageCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Log posteriors are multiplied by scale · s ** exponent, where s is seconds of speech, between 1 and `longest_s`.

    An exponent of 0 takes the mean over the speech for all there is to know, 1 every second for independent of the others.
    """

    scale: Annotated[float, Meta(gt=0, le=100)]
    exponent: Annotated[float, Meta(ge=0, le=1)]
    longest_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    provenance: LanguageProvenance | None = None

    def sharpness(self, speech_s: float) -> float:
        """What the mean log posteriors of so much speech are multiplied by."""
        return self.scale * float(min(max(speech_s, 1.0), self.longest_s) ** self.exponent)


UNCALIBRATED = LanguageCalibration(scale=1.0, exponent=0.0)

# Made here, once: msgspec 0.22 crashes when two threads are the first to read a type.
_DECODER = msgspec.json.Decoder(dict[str, LanguageCalibration])


@functools.cache
def language_calibrations() -> dict[str, LanguageCalibration]:
    """By size of the language model, as shipped in the package."""
    return _DECODER.decode(resources.files("pipeline.scoring").joinpath("weights", "language.json").read_bytes())


def calibration_of(size: str) -> LanguageCalibration:
    """The calibration of a size of the built-in model; none for another model."""
    return language_calibrations().get(size, UNCALIBRATED)
