"""Blobs in an object store, through obstore (https://developmentseed.org/obstore/): `s3://bucket/prefix`.

Credentials, region and endpoint come from the usual environment variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, AWS_ENDPOINT, AWS_ALLOW_HTTP).
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from pipeline.blobs import READ_BYTES, Blob, BlobError, checked

if TYPE_CHECKING:
    from obstore.store import ClientConfig

# obstore's own limit for a request is 30 s with its body, in which a large file may not come over a slow line.
_WHOLE, _SILENCE = "1d", "30s"


def _client_options() -> "ClientConfig":
    # obstore takes AWS_ALLOW_HTTP from the environment only where no options are given
    allow_http = os.environ.get("AWS_ALLOW_HTTP", "").lower() in {"1", "true", "on", "yes", "y"}
    return {"timeout": _WHOLE, "read_timeout": _SILENCE, "allow_http": allow_http}


@contextlib.contextmanager
def _faults(name: str) -> Iterator[None]:
    """Obstore's errors as OSError. What is not found stays FileNotFoundError, which may also be said of the whole bucket."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"object store, {name}: {str(error).splitlines()[0]}") from error
    except BaseError as error:
        raise OSError(f"object store, {name}: {str(error).splitlines()[0]}") from error


class ObjectBlobs:
    """Blobs below an address."""

    def __init__(self, address: str, scratch: Path, installation: str = "topics") -> None:
        """Raises OSError when the address cannot be one."""
        self._scratch, self.installation = scratch, installation
        try:
            self._store = from_url(address, client_options=_client_options())
        except (BaseError, ValueError) as error:
            raise OSError(f"blob store {address}: {str(error).splitlines()[0]}") from error

    def prepare(self) -> None:
        """Nothing: buckets are their owner's to make."""

    def put(self, name: str, content: bytes) -> None:
        """One upload; an object store shows an object once it is whole."""
        with _faults(name):
            obstore.put(self._store, checked(name), content)

    def put_file(self, name: str, path: Path) -> None:
        """Upload in parts."""
        with _faults(name), path.open("rb") as file:
            obstore.put(self._store, checked(name), file)
        path.unlink()

    @contextlib.contextmanager
    def _missing(self, name: str) -> Iterator[None]:
        """A blob that is not there, as BlobError; but a bucket that is not there says nothing of its blobs: OSError."""
        try:
            with _faults(name):
                yield
        except FileNotFoundError as error:
            with _faults(name):
                next(iter(obstore.list(self._store, prefix=name)), None)
            raise BlobError(f"blob {name} is not in the object store") from error

    def size_bytes(self, name: str) -> int:
        """The object's size."""
        return self.entry(name).size_bytes

    def entry(self, name: str) -> Blob:
        """The object's size and time, in whole seconds."""
        with self._missing(name):
            found = obstore.head(self._store, checked(name))
        return Blob(name, found["size"], found["last_modified"].timestamp())

    def chunks(self, name: str) -> Iterator[bytes]:
        """Download in pieces."""
        with self._missing(name):
            for piece in obstore.get(self._store, checked(name)).stream(min_chunk_size=READ_BYTES):
                yield bytes(piece)

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A copy in the scratch folder that has no name there, so that not even a worker that is killed leaves it behind."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            for piece in self.chunks(name):
                file.write(piece)
            file.flush()
            yield Path(f"/proc/self/fd/{file.fileno()}")  # of this process; Linux opens the file anew

    def delete(self, name: str) -> None:
        """Delete the object."""
        path = checked(name)
        with contextlib.suppress(BlobError), self._missing(name):
            obstore.delete(self._store, path)

    def entries(self) -> Iterator[Blob]:
        """List everything."""
        with _faults("listing"):
            for batch in obstore.list(self._store):
                for each in batch:
                    yield Blob(each["path"], each["size"], each["last_modified"].timestamp())
