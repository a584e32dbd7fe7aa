"""Blobs in an object store, through obstore (https://developmentseed.org/obstore/): `s3://bucket/prefix`.

Credentials, region and endpoint come from the usual environment variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, AWS_ENDPOINT, AWS_ALLOW_HTTP).
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from pipeline.blobs import READ_BYTES, Blob, BlobError, checked


@contextlib.contextmanager
def _faults(name: str) -> Iterator[None]:
    """Obstore's errors as the two kinds that callers tell apart."""
    try:
        yield
    except FileNotFoundError as error:
        raise BlobError(f"blob {name} is not in the object store") from error
    except BaseError as error:
        raise OSError(f"object store, {name}: {str(error).splitlines()[0]}") from error


class ObjectBlobs:
    """Blobs below an address."""

    def __init__(self, address: str, scratch: Path) -> None:
        """Raises OSError when the address cannot be one."""
        self._scratch = scratch
        try:
            self._store = from_url(address)
        except (BaseError, ValueError) as error:
            raise OSError(f"blob store {address}: {str(error).splitlines()[0]}") from error

    def put(self, name: str, content: bytes) -> None:
        """One upload; an object store shows an object once it is whole."""
        with _faults(name):
            obstore.put(self._store, checked(name), content)

    def put_file(self, name: str, path: Path) -> None:
        """Upload in parts."""
        with _faults(name), path.open("rb") as file:
            obstore.put(self._store, checked(name), file)
        path.unlink()

    def size_bytes(self, name: str) -> int:
        """The object's size."""
        with _faults(name):
            return int(obstore.head(self._store, checked(name))["size"])

    def chunks(self, name: str) -> Iterator[bytes]:
        """Download in pieces."""
        with _faults(name):
            for piece in obstore.get(self._store, checked(name)).stream(min_chunk_size=READ_BYTES):
                yield bytes(piece)

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A copy in the scratch folder."""
        with tempfile.NamedTemporaryFile(dir=self._scratch, prefix="blob-") as file:
            for piece in self.chunks(name):
                file.write(piece)
            file.flush()
            yield Path(file.name)

    def delete(self, name: str) -> None:
        """Delete the object."""
        with _faults(name), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, checked(name))

    def entries(self) -> Iterator[Blob]:
        """List everything."""
        with _faults("listing"):
            for batch in obstore.list(self._store):
                for each in batch:
                    yield Blob(each["path"], each["size"], each["last_modified"].timestamp())
