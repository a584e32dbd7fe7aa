"""Calibration of one's own: a file that `callstream calibrate` makes of a source's recordings and a worker loads."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from pipeline.scoring.calibration import ComparisonBackend, GenderBackend
from pipeline.scoring.language_calibration import LanguageCalibration, calibration_of
from pipeline.scoring.voiceprint import MODEL


class ProfileError(ValueError):
    """A calibration profile cannot be used; the message says why."""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is not in it is as built in. `voiceprint_model` and `language_size` are the models that it was made with.

    They are said when something in it depends on them.
    """

    comparison: ComparisonBackend | None = None
    gender: GenderBackend | None = None
    language: LanguageCalibration | None = None
    voiceprint_model: str = ""
    language_size: str = ""

    def language_of(self, size: str) -> LanguageCalibration:
        """The calibration of a size of the language model. Raises ProfileError when the profile was made with another."""
        if self.language is None:
            return calibration_of(size)
        if self.language_size != size:
            made_with = self.language_size or "no size that it says"
            raise ProfileError(f"the calibration profile is for the language model {made_with}, not for {size}: make another")
        return self.language


# Made here, once: msgspec 0.22 crashes when two threads are the first to read a type.
_DECODER = msgspec.json.Decoder(Profile)


@functools.cache
def load_profile(path: str) -> Profile:
    """The profile of that file, an empty one for no path. Raises ProfileError."""
    if not path:
        return Profile()
    try:
        profile = _DECODER.decode(Path(path).read_bytes())
    except OSError as error:
        raise ProfileError(f"calibration profile {path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} is no calibration profile: {error}") from None
    if (profile.comparison or profile.gender) and profile.voiceprint_model != MODEL:
        made_with = profile.voiceprint_model or "no model that it says"
        raise ProfileError(f"calibration profile {path} is for voiceprints of {made_with}, not of {MODEL}: make another")
    return profile
