"""Bodies that would cost more than they say."""

import asyncio
import contextlib
import re
import tracemalloc

import pytest

from pipeline.query.app import Service
from pipeline.query.errors import RequestRefusedError
from pipeline.query.openapi import BASE64
from pipeline.query.validation import MAX_COLONS, MAX_COMMAS, check_start, is_base64
from schemas.tasks import Technology
from tests.query.conftest import client_of

GENDER = Technology.GENDER_IDENTIFICATION
COMPARISON = Technology.VOICEPRINT_COMPARISON
SIZE_BYTES = 20_000_000
MOST_BYTES = 4_000_000
KEYS = b"{" + b",".join(b'"%d":0' % number for number in range(1_500_000)) + b"}"
BOMBS = {
    "elements": (b'{"voiceprints":[' + b"0," * (SIZE_BYTES // 2) + b"0]}", {"list.too-long"}),
    "elsewhere": (b'{"voiceprints":["QQ=="],"x":[' + b"[]," * (SIZE_BYTES // 3) + b"0]}", {"list.too-long"}),
    "keys": (KEYS, {"list.too-long", "value.invalid"}),
    "objects": (b'{"x":' * (MAX_COLONS + 1), {"value.invalid"}),
    "no JSON": (b"," * SIZE_BYTES, {"list.too-long"}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_body_of_very_many_parts_is_refused_before_it_is_read(name: str) -> None:
    body, kinds = BOMBS[name]
    tracemalloc.start()
    try:
        with pytest.raises(RequestRefusedError) as refusal:
            check_start(GENDER, memoryview(body))
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert refusal.value.status == 422
    assert {detail.type for detail in refusal.value.error.detail} == kinds
    assert [detail.location for detail in refusal.value.error.detail] == [["body"]] * len(kinds)


@pytest.mark.parametrize("padding", [b"", b"\n "])
def test_the_longest_lists_that_may_be_are_few_parts(padding: bytes) -> None:
    lists = [b"[" + (b"," + padding).join([b'"QQ=="'] * count) + b"]" for count in (50_000, 20)]
    check_start(COMPARISON, memoryview(b'{"voiceprints_a": %s, "voiceprints_b": %s}' % tuple(lists)))
    assert MAX_COMMAS > 2 * 50_000 + 1


async def test_a_small_body_does_not_wait_for_large_ones(service: Service) -> None:
    async with client_of(service) as client, contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(service.tasks._checking)  # as if a large one were looked at
        async with asyncio.timeout(30):
            assert (await client.post(f"/api/technology/{GENDER}", json={"voiceprints": [1]})).status_code == 422


@pytest.mark.parametrize(
    "text", ["", "QQ==", "QUI=", "QUJD", "QUJDQQ==", "QUJE=", "QUJE==", "QUJE===", "QUJE====", "====", "QQ=", "QQ", "=QQ="]
)
def test_base64_is_what_the_document_says(text: str) -> None:
    expected = re.fullmatch(BASE64.removeprefix("^").removesuffix("$"), text) is not None
    assert (is_base64(text), is_base64(memoryview(text.encode()))) == (expected, expected)
