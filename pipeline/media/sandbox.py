"""Decoding of files from strangers, in child processes that have no more than the file and a way to answer."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from pipeline.media.errors import MediaError
from pipeline.media.files import EVERYTHING, Selection
from pipeline.media.link import ChildLink, DecoderError, OnExit, ServerLink
from pipeline.media.wire import DecodeLimits, Exit, Job, MediaInfo

__all__ = ["DecodeLimits", "DecoderError", "Exit", "MediaError", "MediaInfo", "Sandbox", "Selection"]

_DEFAULT_LIMITS = DecodeLimits()


class Sandbox:
    """Decodes media files in confined processes, at most `max_children` at once; others wait for their turn.

    A child has limits of memory, computing time, open files and time without a sign of life, and neither the environment nor
    the descriptors of this process. Where Linux has seccomp, on x86_64 and aarch64, its system calls are filtered: it can open
    no file and no socket, signal and start no process. Elsewhere code that a file brings to run can do what the user can, and
    the log says so once. It is gone when this process is, however it ends.

    Args:
        max_children: how many files are decoded at once.
        on_exit: told what each child took that came to its own end.

    Used from one event loop; close it, or use it as a context manager.
    """

    def __init__(self, *, max_children: int = 2, on_exit: OnExit | None = None) -> None:
        self._slots = asyncio.Semaphore(max_children)
        self._on_exit = on_exit
        self._server: ServerLink | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children and their server. May be called again."""
        if self._server is not None:
            self._server.close()
            self._server = None

    @property
    def server_pid(self) -> int | None:
        """The process whose children decode; None before the first file."""
        return None if self._server is None else self._server.pid

    async def probe(self, path: Path, selection: Selection = EVERYTHING, limits: DecodeLimits = _DEFAULT_LIMITS) -> MediaInfo:
        """What a file is as a call; it has been decoded to the end of what is selected when this returns.

        Raises:
            MediaError: the file cannot be used.
            DecoderError: its decoder stood still or was killed, which a file may cause and the machine too.
            OSError: it could not be tried; another time may do.
        """
        async with self._slots:
            with self._start(path, Job(selection, limits, wants_audio=False)) as child:
                async for _ in child.chunks():
                    pass
                return child.info

    async def decode(
        self, path: Path, selection: Selection = EVERYTHING, limits: DecodeLimits = _DEFAULT_LIMITS
    ) -> AsyncGenerator[bytes, None]:
        """What is selected as pcm_s16le, in chunks of about 500 ms, whole sample frames each; the same ones every time.

        The child waits while nobody asks for the next chunk. Leave the loop early only within `contextlib.aclosing`, or the
        child is kept until the iterator is collected. Raises what `probe` raises, maybe in the middle.
        """
        async with self._slots:
            with self._start(path, Job(selection, limits, wants_audio=True)) as child:
                async for chunk in child.chunks():
                    yield chunk

    def _start(self, path: Path, job: Job) -> "ChildLink":
        if self._server is not None and not self._server.is_alive:
            self.close()
        if self._server is None:
            self._server = ServerLink()
        return ChildLink(self._server, path, job, self._on_exit)
