"""Multipart forms with a media file (RFC 7578): the file goes to a spool as it comes, nothing else may be large."""

from collections.abc import AsyncIterator

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from pipeline.query.errors import RequestRefusedError, media_too_large, request_invalid, validation_failed
from pipeline.query.keeper import Keeper
from pipeline.query.spool import Spool
from schemas.errors import DetailType, ErrorDetail

FORM_TYPE = "multipart/form-data"
FILE, CONFIG = "file", "config"
MAX_PARTS = 32
MAX_FIELD_BYTES = 65_536
FRAME_BYTES = MAX_PARTS * MAX_FIELD_BYTES  # what a form may take beside the file


class MediaForm:
    """A form as it comes. `file` is None until its part begins; whoever made the form closes it."""

    def __init__(self, keeper: Keeper, max_file_bytes: int) -> None:
        self._keeper, self._max_file_bytes = keeper, max_file_bytes
        self.file: Spool | None = None
        self.config: bytes | None = None
        self._part: MultipartSegment | None = None
        self._field = bytearray()

    async def read(self, content_type: str, content_length: int | None, pieces: AsyncIterator[bytes]) -> None:
        """Read it to its end. Raises RequestRefusedError: 400, 413, 422, 507."""
        if content_length is not None and content_length > self._max_file_bytes + FRAME_BYTES:
            raise media_too_large(content_length, self._max_file_bytes)
        try:
            # names of files are not used, and browsers send them in any encoding
            parser = PushMultipartParser(_boundary(content_type), max_segment_count=MAX_PARTS, header_charset="latin-1")
            with parser:
                async for piece in self._counted(pieces):
                    for event in parser.parse(piece) if piece else ():
                        await self._take(event)
        except MultipartError:
            raise request_invalid() from None
        if self.file is None:
            raise _no_file()

    async def _counted(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """All of them: what stands before the first part and behind the last is no part, and has no end of its own."""
        come = 0
        async for piece in pieces:
            come += len(piece)
            if come > self._max_file_bytes + FRAME_BYTES:
                raise media_too_large(come, self._max_file_bytes)
            yield piece

    async def _take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None:
            self._end()
        elif self._part is not None and self._part.name == FILE:
            await self._grow(bytes(event))
        else:
            self._field += event
            if len(self._field) > MAX_FIELD_BYTES:
                raise request_invalid()

    def _begin(self, part: MultipartSegment) -> None:
        self._part = part
        self._field.clear()
        if part.name == FILE:
            if self.file is not None:
                detail = ErrorDetail(["body", FILE], "One file is needed, not several.", DetailType.VALUE_INVALID)
                raise validation_failed([detail])
            self.file = Spool(self._keeper)

    def _end(self) -> None:
        if self._part is not None and self._part.name == CONFIG:
            self.config = bytes(self._field)
        self._part = None

    async def _grow(self, piece: bytes) -> None:
        assert self.file is not None
        if self.file.content_bytes + len(piece) > self._max_file_bytes:
            raise media_too_large(self.file.content_bytes + len(piece), self._max_file_bytes)
        await self.file.write(piece)

    def close(self) -> None:
        """Let go of the file, if it was not kept."""
        if self.file is not None:
            self.file.close()


def _no_file() -> RequestRefusedError:
    return validation_failed([ErrorDetail(["body", FILE], "A media file is needed.", DetailType.VALUE_MISSING)])


def _boundary(content_type: str) -> str:
    kind, options = parse_options_header(content_type)  # type: ignore[no-untyped-call]
    if kind.lower() != FORM_TYPE:
        raise _no_file()
    if not options.get("boundary"):
        raise request_invalid()
    return str(options["boundary"])
