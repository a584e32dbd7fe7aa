"""The blob store under the query service: quota, sweep, and bodies on their way there."""

import asyncio
import errno
import hashlib
import os
import shutil
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
from pipeline.query.instance import instance_id
from pipeline.query.keeper import Keeper, StorageFullError
from pipeline.query.spool import MEMORY_BYTES, Spool, read_body
from pipeline.query.view import TaskRow, View, now_ms
from pipeline.query.view_file import FILE_NAME
from pipeline.settings import Settings, SettingsError, load
from schemas.requests import BlobRef
from schemas.tasks import TaskState, Technology
from tests.query.conftest import DAY_S, replaced

COMPARISON = Technology.VOICEPRINT_COMPARISON
GRACE_S = 600.0
OLD_S = GRACE_S + 60
HOUR_S = 3600.0


class Clock:
    """Time that passes when a test says so."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replaced(settings, blob_quota_bytes=10_000_000, blob_grace_s=GRACE_S)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keeper(settings: Settings, view: View, clock: Clock) -> Keeper:
    return Keeper(settings, view, clock)


def row(task_id: str, state: TaskState, result_ref: str | None = None, age_s: float = 0.0) -> TaskRow:
    body = None if result_ref else b"{}"
    return TaskRow(task_id, COMPARISON, 1, state, body, result_ref, now_ms() - round(age_s * 1000))


def put(keeper: Keeper, settings: Settings, name: str, age_s: float = OLD_S, content: bytes = b"content") -> Path:
    keeper.store.put(name, content)
    path = Path(settings.data_dir) / "blobs" / name
    os.utime(path, (time.time() - age_s,) * 2)
    return path


async def sweep(keeper: Keeper, clock: Clock) -> int:
    """See what is there, and judge it when that is long enough ago."""
    assert await keeper.sweep(lambda: True) == 0
    clock.now_s += OLD_S
    return await keeper.sweep(lambda: True)


async def test_a_request_goes_when_its_task_has_been_final_for_a_while(
    keeper: Keeper, settings: Settings, view: View, clock: Clock
) -> None:
    ids = {name: str(uuid.uuid4()) for name in ("running", "just-final", "final", "unknown", "starting", "held", "under-way")}
    changes = [
        row(ids["running"], TaskState.RUNNING, age_s=OLD_S),
        row(ids["just-final"], TaskState.DONE),
        row(ids["final"], TaskState.DONE, age_s=OLD_S),
    ]
    view.apply(changes, {})
    under_way = ids.pop("under-way")
    files = {name: put(keeper, settings, keeper.request_name(task_id), age_s=0) for name, task_id in ids.items()}
    keeper.hold(ids["held"])
    with keeper.starting(ids["starting"]):
        assert await keeper.sweep(lambda: True) == 0
        clock.now_s += OLD_S
        put(keeper, settings, keeper.request_name(under_way), age_s=0)  # the store's clock may be wrong: ours says when it came
        assert await keeper.sweep(lambda: True) == 2
        assert {name for name, file in files.items() if file.exists()} == {"running", "just-final", "starting", "held"}
        assert await keeper.sweep(lambda: True) == 0
    clock.now_s += OLD_S
    assert await keeper.sweep(lambda: True) == 2


async def test_another_services_request_is_left_until_its_topic_has_forgotten_it(
    keeper: Keeper, settings: Settings, clock: Clock
) -> None:
    name = f"requests/{uuid.uuid4().hex}/{uuid.uuid4()}"
    file = put(keeper, settings, name)
    assert await sweep(keeper, clock) == 0
    os.utime(file, (time.time() - 26 * HOUR_S,) * 2)
    assert await sweep(keeper, clock) == 1


@pytest.mark.parametrize("loss", ["in use", "at start", "another cluster"])
async def test_a_view_that_began_anew_knows_no_task_that_has_not_begun(settings: Settings, clock: Clock, loss: str) -> None:
    view = View(Path(settings.data_dir), DAY_S)
    view.bind("one/results")
    keeper = Keeper(settings, view, clock)
    lost = put(keeper, settings, keeper.request_name(str(uuid.uuid4())), age_s=1)
    match loss:
        case "in use":
            view.rebuild()
        case "at start":
            view.close()
            (Path(settings.data_dir) / FILE_NAME).write_bytes(b"no database at all" * 300)
            view = View(Path(settings.data_dir), DAY_S)
        case _:
            view.bind("two/results")
    again = Keeper(settings, view, clock)
    given_up = put(again, settings, again.request_name(str(uuid.uuid4())), age_s=-1)
    assert given_up.parent == lost.parent  # the service's id is not the view's
    for each in (again,) if loss == "at start" else (keeper, again):
        await sweep(each, clock)
        assert (lost.exists(), given_up.exists()) == (True, False)
    os.utime(lost, (time.time() - 26 * HOUR_S,) * 2)
    assert await sweep(again, clock) == 1
    view.close()


def test_an_id_that_cannot_be_read_is_made_anew(tmp_path: Path) -> None:
    first = instance_id(tmp_path / "data")
    assert instance_id(tmp_path / "data") == first
    (tmp_path / "data" / "instance").write_bytes(b"\xff../x")
    assert len({first, instance_id(tmp_path / "data"), instance_id(tmp_path / "data")}) == 2


async def test_a_result_goes_with_its_task(keeper: Keeper, settings: Settings, view: View, clock: Clock) -> None:
    known, gone, other, running, late = (str(uuid.uuid4()) for _ in range(5))
    names = [result_name("topics", task_id, b"content") for task_id in (known, gone, other, running)]
    files = [put(keeper, settings, name, age_s=2 * HOUR_S) for name in names]
    unpublished = put(keeper, settings, result_name("topics", late, b"content"), age_s=HOUR_S - 60)
    rows = [
        row(known, TaskState.DONE, names[0]),
        row(other, TaskState.DONE, result_name("topics", other, b"another")),
        row(running, TaskState.RUNNING),
    ]
    view.apply(rows, {})
    assert await sweep(keeper, clock) == 2
    assert [file.exists() for file in (*files, unpublished)] == [True, False, False, True, True]


async def test_while_the_view_is_behind_nothing_is_unneeded(keeper: Keeper, settings: Settings, clock: Clock) -> None:
    """And what came of a task has as long again to be published, as when Kafka was away from all of them."""
    file = put(keeper, settings, result_name("topics", str(uuid.uuid4()), b"content"), age_s=5 * HOUR_S)
    await keeper.sweep(lambda: True)
    clock.now_s += OLD_S
    assert await keeper.sweep(lambda: False) == 0
    await keeper.measure()
    assert await sweep(keeper, clock) == 1
    assert not file.exists()


class _PutAgain(LocalBlobs):
    """A store in which a worker's successor is just putting the same result."""

    def entry(self, name: str) -> Blob:
        self.put(name, b"content")
        return super().entry(name)


async def test_a_result_that_is_put_again_stays(keeper: Keeper, settings: Settings, clock: Clock) -> None:
    file = put(keeper, settings, result_name("topics", str(uuid.uuid4()), b"content"), age_s=5 * HOUR_S)
    keeper.store = _PutAgain(Path(settings.data_dir) / "blobs")
    assert await sweep(keeper, clock) == 0
    assert file.exists()


@pytest.mark.parametrize("prefix", ["other.", "default", "..", ".part-x", "-"])
async def test_another_installations_results_are_left(
    keeper: Keeper, settings: Settings, view: View, clock: Clock, prefix: str
) -> None:
    theirs = Keeper(replaced(settings, topic_prefix=prefix, blob_store=str(Path(settings.data_dir) / "blobs")), view, clock)
    file = put(theirs, settings, result_name(theirs.store.installation, str(uuid.uuid4()), b"content"), age_s=5 * HOUR_S)
    assert await sweep(keeper, clock) == 0
    assert await sweep(theirs, clock) == 1
    assert not file.exists()


async def test_results_of_the_previous_release_go_when_no_task_has_them(
    keeper: Keeper, settings: Settings, view: View, clock: Clock
) -> None:
    folder = Path(settings.data_dir) / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    old_s = settings.task_ttl_s + HOUR_S
    names = [f"sha256-{hashlib.sha256(text).hexdigest()}" for text in (b"needed again", b"old", b"young")]
    for name, age_s in zip(names, [old_s, old_s, DAY_S], strict=True):
        (folder / name).write_text("{}")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    view.apply([row(str(uuid.uuid4()), TaskState.DONE, names[0])], {})
    assert await sweep(keeper, clock) == 1
    assert {path.name for path in folder.iterdir() if path.is_file()} == {names[0], names[2]}
    assert keeper.store.size_bytes(names[0]) == 2
    keeper.store.put("requests/a/b", b"the first of its folder")


async def test_what_is_none_of_ours_is_left(
    keeper: Keeper, settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(settings.data_dir) / "blobs"
    (folder / "results" / "topics").mkdir(parents=True, exist_ok=True)
    foreign = [folder / "notes.txt", folder / "results" / "topics" / "a person's"]
    for file in foreign:
        file.write_text("a person's")
        os.utime(file, (0, 0))
    for _ in range(3):
        assert await sweep(keeper, clock) == 0
    assert all(file.exists() for file in foreign)
    assert caplog.text.count("none of ours") == 1


async def test_half_written_files_of_a_killed_service_or_worker_go(settings: Settings, view: View, clock: Clock) -> None:
    upload = scratch_folder(settings) / "upload-x"
    upload.write_bytes(b"half")
    partial = Path(settings.data_dir) / "blobs" / "results" / "topics" / ".part-x"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"half")
    os.utime(partial, (0, 0))
    keeper = Keeper(settings, view, clock)
    assert not upload.exists()
    assert await sweep(keeper, clock) == 1
    assert not partial.exists()


async def test_the_quota_counts_what_is_there_and_what_is_coming(keeper: Keeper, settings: Settings) -> None:
    put(keeper, settings, result_name("topics", str(uuid.uuid4()), b"x"), content=b"x" * 6_000_000)
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


async def test_a_disk_that_fills_with_the_last_piece_is_507_too(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Spool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    spool = Spool(keeper)
    await spool.write(b"x" * (MEMORY_BYTES + 1))
    await spool.write(b"x")
    monkeypatch.setattr(Spool, "_flush", full)
    with pytest.raises(RequestRefusedError) as refusal:
        spool.content()
    assert refusal.value.status == HTTPStatus.INSUFFICIENT_STORAGE
    spool.close()


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


@pytest.mark.parametrize(("mask", "mode"), [(0o027, 0o640), (0o002, 0o664)])
async def test_a_blob_may_be_read_by_whom_the_umask_lets(keeper: Keeper, settings: Settings, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        for name, size_bytes in (("small", 1), ("large", 2 * MEMORY_BYTES)):
            spool = Spool(keeper)
            await spool.write(b"x" * size_bytes)
            await spool.keep(name)
            spool.close()
            path = Path(settings.data_dir) / "blobs" / keeper.request_name(name)
            assert path.stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


def test_a_grace_of_nothing_is_refused() -> None:
    with pytest.raises(SettingsError, match="BLOB_GRACE_S"):
        load({"CALLSTREAM_BLOB_GRACE_S": "0"})


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


def test_a_store_that_cannot_be_listed_is_not_an_empty_one(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_blobs(settings)
    store.put("requests/a/b", b"12345")
    scandir = os.scandir

    def refused(folder: str | os.PathLike[str]) -> object:
        if Path(folder).name == "a":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)  # root may list everything
    with pytest.raises(PermissionError):
        list(store.entries())


async def test_a_store_that_went_away_is_not_an_empty_one(keeper: Keeper, settings: Settings) -> None:
    await keeper.measure()
    shutil.rmtree(settings.data_dir)
    with pytest.raises(OSError, match="no blob store"):
        await keeper.measure()


async def test_a_body_that_the_store_does_not_take_is_a_line_in_the_log(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(name: str, content: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", name)

    monkeypatch.setattr(keeper.store, "put", refused)
    spool = Spool(keeper)
    await spool.write(b"audio")
    with pytest.raises(RequestRefusedError) as refusal:
        await spool.keep("task")
    assert refusal.value.status == HTTPStatus.INTERNAL_SERVER_ERROR
    [record] = caplog.records
    assert "Permission denied" in record.getMessage()
    assert record.exc_info is None
