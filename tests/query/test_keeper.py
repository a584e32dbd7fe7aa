"""The blob store under the query service: quota, sweep, and bodies on their way there."""

import asyncio
import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.blobs import Blob, BlobError, LocalBlobs, checked, open_blobs, read_checked, result_name, scratch_folder
from pipeline.query.errors import RequestRefusedError, body_too_large
from pipeline.query.keeper import Keeper, StorageFullError
from pipeline.query.spool import MEMORY_BYTES, Spool, read_body
from pipeline.query.view import TaskRow, View, now_ms
from pipeline.settings import Settings
from schemas.requests import BlobRef
from schemas.tasks import TaskState, Technology
from tests.query.conftest import replaced

COMPARISON = Technology.VOICEPRINT_COMPARISON
GRACE_S = 600.0
OLD_S = GRACE_S + 60


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replaced(settings, blob_quota_bytes=10_000_000, blob_grace_s=GRACE_S)


@pytest.fixture
def keeper(settings: Settings, view: View) -> Keeper:
    return Keeper(settings, view)


def row(task_id: str, state: TaskState, result_ref: str | None = None, age_s: float = 0.0) -> TaskRow:
    body = None if result_ref else b"{}"
    return TaskRow(task_id, COMPARISON, 1, state, body, result_ref, now_ms() - round(age_s * 1000))


def put(keeper: Keeper, settings: Settings, name: str, age_s: float = OLD_S, content: bytes = b"content") -> Path:
    keeper.store.put(name, content)
    path = Path(settings.data_dir) / "blobs" / name
    os.utime(path, (time.time() - age_s,) * 2)
    return path


async def test_a_request_goes_when_its_task_has_been_final_for_a_while(keeper: Keeper, settings: Settings, view: View) -> None:
    ids = {name: str(uuid.uuid4()) for name in ("running", "just-final", "final", "unknown", "under-way")}
    files = {name: put(keeper, settings, keeper.request_name(task_id)) for name, task_id in ids.items()}
    os.utime(files["under-way"])
    changes = [
        row(ids["running"], TaskState.RUNNING, age_s=OLD_S),
        row(ids["just-final"], TaskState.DONE),
        row(ids["final"], TaskState.DONE, age_s=OLD_S),
    ]
    view.apply(changes, {})
    assert await keeper.sweep() == 2
    assert {name for name, file in files.items() if file.exists()} == {"running", "just-final", "under-way"}
    assert await keeper.sweep() == 0


async def test_another_services_request_is_left_until_its_topic_has_forgotten_it(keeper: Keeper, settings: Settings) -> None:
    name = f"requests/{uuid.uuid4().hex}/{uuid.uuid4()}"
    file = put(keeper, settings, name)
    assert await keeper.sweep() == 0
    os.utime(file, (time.time() - 26 * 3600,) * 2)
    assert await keeper.sweep() == 1


async def test_a_result_goes_with_its_task(keeper: Keeper, settings: Settings, view: View) -> None:
    known, gone, other = (str(uuid.uuid4()) for _ in range(3))
    names = [result_name(task_id, b"content") for task_id in (known, gone, other)]
    files = [put(keeper, settings, name) for name in names]
    fresh = put(keeper, settings, result_name(gone, b"fresh"), age_s=0)
    view.apply([row(known, TaskState.DONE, names[0]), row(other, TaskState.DONE, result_name(other, b"another"))], {})
    assert await keeper.sweep() == 2
    assert [file.exists() for file in (*files, fresh)] == [True, False, False, True]


async def test_what_is_none_of_ours_is_left(keeper: Keeper, settings: Settings) -> None:
    foreign = Path(settings.data_dir) / "blobs" / "notes.txt"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("a person's")
    os.utime(foreign, (0, 0))
    await keeper.sweep()
    assert foreign.exists()


async def test_half_written_files_of_a_killed_service_or_worker_go(settings: Settings, view: View) -> None:
    upload = scratch_folder(settings) / "upload-x"
    upload.write_bytes(b"half")
    partial = Path(settings.data_dir) / "blobs" / "results" / ".part-x"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"half")
    os.utime(partial, (0, 0))
    keeper = Keeper(settings, view)
    assert not upload.exists()
    assert await keeper.sweep() == 1
    assert not partial.exists()


async def test_the_quota_counts_what_is_there_and_what_is_coming(keeper: Keeper, settings: Settings) -> None:
    put(keeper, settings, result_name(str(uuid.uuid4()), b"x"), content=b"x" * 6_000_000)
    await keeper.measure()
    first, second = Spool(keeper), Spool(keeper)
    await first.write(b"x" * 3_000_000)
    with pytest.raises(RequestRefusedError) as refusal:
        await second.write(b"x" * 1_000_001)
    assert refusal.value.status == HTTPStatus.INSUFFICIENT_STORAGE
    second.close()
    first.close()
    keeper.reserve(4_000_000)
    with pytest.raises(StorageFullError):
        keeper.reserve(1)


@pytest.mark.parametrize("size_bytes", [0, 1, MEMORY_BYTES - 1, MEMORY_BYTES, 3 * MEMORY_BYTES + 17])
async def test_a_spool_becomes_a_blob(keeper: Keeper, settings: Settings, size_bytes: int) -> None:
    content = bytes(index % 251 for index in range(size_bytes))
    spool = Spool(keeper)
    for start in range(0, size_bytes, 70_001):
        await spool.write(content[start : start + 70_001])
    assert bytes(spool.content()) == content
    reference = await spool.keep(str(uuid.uuid4()))
    spool.close()
    assert reference == BlobRef(reference.name, hashlib.sha256(content).hexdigest(), size_bytes)
    assert read_checked(keeper.store, reference) == content
    assert list(scratch_folder(settings).iterdir()) == []


async def test_a_spool_that_is_not_kept_leaves_nothing(keeper: Keeper, settings: Settings) -> None:
    spool = Spool(keeper)
    await spool.write(b"x" * (2 * MEMORY_BYTES))
    assert len(list(scratch_folder(settings).iterdir())) == 1
    spool.close()
    assert list(scratch_folder(settings).iterdir()) == []
    keeper.reserve(settings.blob_quota_bytes)


async def test_a_body_over_its_limit_leaves_nothing(keeper: Keeper, settings: Settings) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000
            await asyncio.sleep(0)

    with pytest.raises(RequestRefusedError) as refusal:
        await read_body(pieces(), keeper, 2_000_000, body_too_large(2_000_000))
    assert refusal.value.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert list(scratch_folder(settings).iterdir()) == []
    keeper.reserve(settings.blob_quota_bytes)


def test_a_blob_that_is_another_is_refused(tmp_path: Path) -> None:
    store = LocalBlobs(tmp_path)
    store.put("requests/a/b", b"one")
    with pytest.raises(BlobError, match="not those"):
        read_checked(store, BlobRef("requests/a/b", hashlib.sha256(b"two").hexdigest(), 3))
    with pytest.raises(BlobError):
        read_checked(store, BlobRef("requests/a/c", "", 3))


@given(st.text(max_size=40) | st.from_regex(r"(requests|results)(/[a-z.~\\0-9_-]{0,8}){1,5}", fullmatch=True))
def test_no_name_leads_out_of_the_store(name: str) -> None:
    root = Path("/store")
    try:
        path = root / checked(name)
    except BlobError:
        return
    assert Path(os.path.normpath(path)) == path
    assert path.is_relative_to(root)
    assert path.parts[2] in ("requests", "results")


def test_the_store_lists_what_it_holds(settings: Settings) -> None:
    store = open_blobs(settings)
    assert list(store.entries()) == []
    store.put("results/x", b"12345")
    [found] = store.entries()
    assert found == Blob("results/x", 5, found.modified_s)
    assert abs(found.modified_s - time.time()) < 60
    store.delete("results/x")
    store.delete("results/x")
    assert list(store.entries()) == []
