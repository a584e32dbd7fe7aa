"""A `requests` record: a start-task request, as users' producers and the query service write it (JSON)."""

import msgspec

from schemas.tasks import Technology

MAX_VOICEPRINTS = 50_000
MAX_MATRIX = 1_000_000


class GenderRequest(msgspec.Struct, frozen=True):
    """Gender identification from a list of Base64 voiceprints."""

    voiceprints: list[str]


class ComparisonRequest(msgspec.Struct, frozen=True):
    """Every voiceprint of list a (columns) against every one of list b (rows), Base64."""

    voiceprints_a: list[str]
    voiceprints_b: list[str]


class StartTask(msgspec.Struct, frozen=True, omit_defaults=True):
    """A `requests` record. `technology` may be left out: the lists tell it."""

    technology: Technology | None = None
    voiceprints: list[str] | None = None
    voiceprints_a: list[str] | None = None
    voiceprints_b: list[str] | None = None
