"""Blobs in an object store: a real client against a server that speaks S3 over HTTP on loopback."""

import hashlib
import os
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from pipeline.blobs import BlobError, BlobStore, checked_file, open_blobs, read_checked
from pipeline.object_blobs import ObjectBlobs
from pipeline.settings import Settings
from schemas.requests import BlobRef

LARGE = bytes(range(256)) * 50_000  # over the size from which an upload goes in parts


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    bucket = f"calls-{uuid.uuid4().hex[:8]}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT"), timeout=30).close()
    environment = {
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return open_blobs(Settings(data_dir=str(tmp_path), blob_store=f"s3://{bucket}/below"))


def test_the_setting_chooses_the_store(store: BlobStore) -> None:
    assert isinstance(store, ObjectBlobs)


def is_open(path: Path, opened: os.stat_result) -> bool:
    """Whether the descriptor is still this file's; another thread may have its number by now."""
    try:
        return os.path.samestat(path.stat(), opened)
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("content", [b"", b"small", LARGE], ids=["empty", "small", "large"])
def test_what_is_put_is_read(store: BlobStore, content: bytes) -> None:
    name = f"results/{uuid.uuid4()}"
    store.put(name, content)
    assert store.size_bytes(name) == len(content)
    assert read_checked(store, BlobRef(name, hashlib.sha256(content).hexdigest(), len(content))) == content
    with store.local(name) as path:
        assert path.read_bytes() == content
        opened = path.stat()
    assert not is_open(path, opened)


def test_a_copy_to_read_has_no_name_that_could_be_left_behind(store: BlobStore, tmp_path: Path) -> None:
    store.put("requests/a/b", LARGE)
    with store.local("requests/a/b") as path:
        assert list((tmp_path / "scratch").iterdir()) == []
        for _ in range(2):
            assert path.read_bytes() == LARGE
        reference = BlobRef("requests/a/b", hashlib.sha256(LARGE).hexdigest(), len(LARGE))
        with checked_file(store, reference) as other:
            assert other.read_bytes() == LARGE
    with pytest.raises(BlobError, match="not what was put there"), checked_file(store, BlobRef("requests/a/b", "0" * 64, 1)):
        pass


def test_a_file_is_moved_there(store: BlobStore, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(LARGE)
    store.put_file("requests/a/b", file)
    assert not file.exists()
    assert b"".join(store.chunks("requests/a/b")) == LARGE
    [entry] = store.entries()
    assert (entry.name, entry.size_bytes) == ("requests/a/b", len(LARGE))


def test_what_is_deleted_is_gone(store: BlobStore) -> None:
    store.put("requests/a/b", b"content")
    for _ in range(2):
        store.delete("requests/a/b")
    assert list(store.entries()) == []
    for ask in (store.size_bytes, lambda name: list(store.chunks(name))):
        with pytest.raises(BlobError, match="is not in the object store"):
            ask("requests/a/b")
    with pytest.raises(BlobError), store.local("requests/a/b"):
        pass


def test_a_bucket_that_is_not_there_says_nothing_of_its_blobs(store: BlobStore, tmp_path: Path) -> None:
    """It may be made yet, or was named wrongly: callers wait, and bury nothing."""
    away = ObjectBlobs("s3://nobodys/below", tmp_path)
    file = tmp_path / "upload"
    file.write_bytes(b"content")
    asks: list[Callable[[], object]] = [
        lambda: away.put("requests/a/b", b"content"),
        lambda: away.put_file("requests/a/b", file),
        lambda: away.size_bytes("requests/a/b"),
        lambda: list(away.chunks("requests/a/b")),
        lambda: away.delete("requests/a/b"),
        lambda: list(away.entries()),
    ]
    for ask in asks:
        with pytest.raises(OSError, match="object store"):
            ask()
    assert file.exists()


def test_an_entry_is_what_the_listing_says(store: BlobStore) -> None:
    store.put("requests/a/b", b"content")
    [listed] = store.entries()
    found = store.entry("requests/a/b")
    assert found[:2] == listed[:2]
    assert abs(found.modified_s - listed.modified_s) < 1
    with pytest.raises(BlobError):
        store.entry("requests/a/c")
    with pytest.raises(BlobError, match="leads out"):
        store.delete("../x")


def test_a_store_that_does_not_answer_is_tried_again_by_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ENDPOINT": "http://127.0.0.1:1", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    store = ObjectBlobs("s3://bucket/x", tmp_path)
    with pytest.raises(OSError, match="object store"):
        store.put("results/x", b"content")


def test_to_open_a_store_touches_no_disk_which_may_be_away(tmp_path: Path) -> None:
    no_folder = tmp_path / "file"
    no_folder.touch()
    assert isinstance(open_blobs(Settings(data_dir=str(no_folder), blob_store="s3://bucket/x")), ObjectBlobs)


@pytest.mark.parametrize("address", ["ftp://somewhere/x", "s3://", "nothing://"])
def test_an_address_that_can_be_none(address: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="blob store"):
        ObjectBlobs(address, tmp_path)
