"""What the sandbox, its fork server and the children say to each other."""

import struct

import msgspec

from pipeline.media.files import Selection
from schemas.media import AudioFormat

HEADER = struct.Struct("!cI")  # of a frame: its kind, and the bytes of what follows

# Kinds of frames from a child to the sandbox, in this order; LIVING may come between any two.
LIVING = b"L"
UNFILTERED = b"U"  # LIVING, from a child that could make any system call
FORMAT = b"F"  # an AudioFormat
AUDIO = b"A"  # a chunk; not when probing
DONE = b"D"  # a MediaInfo
REFUSED = b"R"  # the reason of a MediaError

LIVING_EVERY_S = 1.0
MAX_JOB_BYTES = 65_536

EXIT_DONE, EXIT_FAILED, EXIT_UNCONFINED = 0, 1, 3


class DecodeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one file may take.

    `memory_bytes` are of address space, of which Python and the decoders take 120 MB themselves; `cpu_s` is computing time;
    `stall_s` is how long nothing may come from the child while it is waited for; `decoded_s` is audio from the begin of the
    file, what lies before a range included.
    """

    memory_bytes: int = 512 * 1024 * 1024
    cpu_s: int = 300
    stall_s: float = 60.0
    decoded_s: float = 43_200.0


class MediaInfo(msgspec.Struct, frozen=True):
    """What a file is as a call: the format and length of what is selected, and which of its channels the call's channels are.

    A mix is channel 0.
    """

    format: AudioFormat
    duration_s: float
    channel_numbers: list[int]


class Job(msgspec.Struct, frozen=True):
    """What a child is to do with the file that comes with it: give its audio, or only find out what it is."""

    selection: Selection
    limits: DecodeLimits
    wants_audio: bool


class Exit(msgspec.Struct, frozen=True):
    """How a child ended: its wait status, what it took; or `errno` when it could not be started."""

    status: int = 0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    errno: int = 0
