"""Calibration of one's own: a file that `callstream calibrate` makes of a source's recordings and a worker loads."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from pipeline.scoring.calibration import ComparisonBackend, GenderBackend
from pipeline.scoring.language_calibration import LanguageCalibration


class ProfileError(ValueError):
    """A calibration profile cannot be used; the message says why."""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is not in it is as built in."""

    comparison: ComparisonBackend | None = None
    gender: GenderBackend | None = None
    language: LanguageCalibration | None = None


# Made here, once: msgspec 0.22 crashes when two threads are the first to read a type.
_DECODER = msgspec.json.Decoder(Profile)


@functools.cache
def load_profile(path: str) -> Profile:
    """The profile of that file, an empty one for no path. Raises ProfileError."""
    if not path:
        return Profile()
    try:
        return _DECODER.decode(Path(path).read_bytes())
    except OSError as error:
        raise ProfileError(f"calibration profile {path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProfileError(f"calibration profile {path} is none: {error}") from None
