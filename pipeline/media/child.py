"""What a child of the fork server does: it gives up what it may not have, decodes one file, and is gone."""

import ctypes
import fcntl
import math
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator

import msgspec

from pipeline.media import system_calls, wire
from pipeline.media.errors import MediaError
from pipeline.media.files import MediaFile
from pipeline.media.wire import DecodeLimits, Job, MediaInfo

MAX_DESCRIPTORS = 1024  # of the fork server, so that a child need not close more

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_FILE_FD, _OUTPUT_FD, _OPEN_FDS = 3, 4, 5  # all that a child has open, with the three that every process has
_LIBC = ctypes.CDLL(None)


def run(file_fd: int, output_fd: int, job: bytes, server_pid: int) -> int:
    """Do one job in a process that was forked for it; returns its exit code."""
    try:
        _keep_only(file_fd, output_fd)
        asked = msgspec.msgpack.decode(job, type=Job)
        decoding = _Decoding(asked)
        decoding.is_filtered = _confine(asked.limits, server_pid)
    except Exception:  # noqa: BLE001 - whatever it is, it is not the file's fault
        return wire.EXIT_UNCONFINED
    try:
        decoding.run()
    except Exception:  # noqa: BLE001 - nobody listens, or there is no memory to say anything
        return wire.EXIT_FAILED
    return wire.EXIT_DONE


def _keep_only(file_fd: int, output_fd: int) -> None:
    """Close all descriptors but these: those of the other jobs are none of this child's business."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (nowhere, nowhere, nowhere, file_fd, output_fd)]
    for target, source in enumerate(high):
        os.dup2(source, target)
    os.closerange(_OPEN_FDS, MAX_DESCRIPTORS)


def _confine(limits: DecodeLimits, server_pid: int) -> bool:
    """Take the limits on, for ever; whether the filter of system calls is one of them. Raises OSError."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server_pid:  # the server was gone before the call
        os._exit(wire.EXIT_UNCONFINED)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)  # RLIMIT_CORE does not hold where cores go to a program
    cpu_s = max(1, math.ceil(limits.cpu_s))
    _limit(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)  # SIGXCPU first: it says why
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FDS)
    _limit(resource.RLIMIT_AS, limits.memory_bytes)
    return system_calls.restrict()


def _limit(what: int, soft: int, hard: int | None = None) -> None:
    most = resource.getrlimit(what)[1]
    wanted = (soft, soft if hard is None else hard)
    resource.setrlimit(what, wanted if most == resource.RLIM_INFINITY else (min(wanted[0], most), min(wanted[1], most)))


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, *(ctypes.c_ulong(one) for one in (value, 0, 0, 0))) != 0:
        raise OSError(f"prctl {option} failed")


class _Decoding:
    """One file to frames on the output socket."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._output = socket.socket(fileno=_OUTPUT_FD)
        self._sent_at_s = 0.0
        self.is_filtered = True

    def run(self) -> None:
        """Say what the file is, or why it is nothing. Raises OSError when nobody listens."""
        self._send(wire.LIVING if self.is_filtered else wire.UNFILTERED)
        try:
            info = self._decode()
        except MediaError as error:
            self._refuse(error.reason)
        except MemoryError:
            self._refuse(f"cannot be decoded in {self._job.limits.memory_bytes / 1e6:.0f} MB of memory")
        except BrokenPipeError:
            raise
        except Exception:  # noqa: BLE001 - a decoder was led astray
            self._refuse("cannot be decoded")
        else:
            self._send(wire.DONE, msgspec.msgpack.encode(info))

    def _decode(self) -> MediaInfo:
        total_bytes = 0
        with MediaFile(_FILE_FD, self._job.selection) as media:
            self._send(wire.FORMAT, msgspec.msgpack.encode(media.format))
            for chunk in self._limited(media):
                total_bytes += len(chunk)
                if chunk and self._job.wants_audio:
                    self._send(wire.AUDIO, chunk)
                elif time.monotonic() - self._sent_at_s > wire.LIVING_EVERY_S:
                    self._send(wire.LIVING)
            return MediaInfo(media.format, total_bytes / media.format.bytes_per_s, media.channel_numbers)

    def _limited(self, media: MediaFile) -> Iterator[bytes]:
        """The file's chunks. Raises MediaError when too many come: a small file may hold days of silence."""
        most_s = self._job.limits.decoded_s
        for chunk in media.chunks():
            if media.decoded_s > most_s:
                raise MediaError(f"is longer than {most_s:g} s")
            yield chunk

    def _refuse(self, reason: str) -> None:
        self._send(wire.REFUSED, reason.encode())

    def _send(self, kind: bytes, content: bytes = b"") -> None:
        self._output.sendall(wire.HEADER.pack(kind, len(content)) + content)
        self._sent_at_s = time.monotonic()
