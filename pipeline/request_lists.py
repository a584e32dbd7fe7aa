"""The lists of voiceprints that a request holds, in a record or in a blob: what stands beside them is not looked at."""

import msgspec

from schemas.tasks import Technology

# what each technology is started from
FIELDS: dict[Technology, tuple[str, ...]] = {
    Technology.GENDER_IDENTIFICATION: ("voiceprints",),
    Technology.VOICEPRINT_COMPARISON: ("voiceprints_a", "voiceprints_b"),
}

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXTS = msgspec.json.Decoder(list[str])


def read_lists(technology: Technology, body: bytes | memoryview) -> dict[str, list[str]]:
    """The technology's lists, of a key that comes twice the last, as they were checked. Raises what msgspec raises."""
    found = _OBJECT.decode(body)
    return {name: _TEXTS.decode(found[name]) for name in FIELDS[technology] if name in found}
