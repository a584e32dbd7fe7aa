"""From the bytes of a call to samples of its channels, whatever the bytes were cut into."""

import numpy as np
from numpy.typing import NDArray

from pipeline.audio import g711
from schemas.media import AudioFormat, Encoding

Int16 = NDArray[np.int16]

SILENCE = {Encoding.PCM_S16LE: 0, Encoding.MULAW: g711.MULAW_SILENCE, Encoding.ALAW: g711.ALAW_SILENCE}


def silence(audio_format: AudioFormat, length: int) -> bytes:
    """`length` bytes of silence in this encoding."""
    return bytes([SILENCE[audio_format.encoding]]) * length


def decode_samples(encoding: Encoding, audio: bytes) -> Int16:
    """Whole samples as int16, shape (n,)."""
    if encoding is Encoding.MULAW:
        return g711.decode_mulaw(audio)
    if encoding is Encoding.ALAW:
        return g711.decode_alaw(audio)
    return np.frombuffer(audio, "<i2").astype(np.int16, copy=False)


class FrameDecoder:
    """Cuts a byte stream into whole sample frames; half a frame waits for its other half."""

    def __init__(self, audio_format: AudioFormat, position: int = 0) -> None:
        """Begin at this byte of the call; half a frame there is left out."""
        self._format = audio_format
        self._rest = b""
        self._skip = -position % audio_format.frame_bytes

    def feed(self, audio: bytes) -> Int16:
        """Samples of the frames that are whole by now, shape (frames, channels)."""
        skipped = min(self._skip, len(audio))
        self._skip -= skipped
        audio = self._rest + audio[skipped:]
        whole = len(audio) - len(audio) % self._format.frame_bytes
        self._rest = audio[whole:]
        samples = decode_samples(self._format.encoding, audio[:whole])
        return samples.reshape(-1, self._format.channels)

    def finish(self) -> Int16:
        """The last frame, filled up with silence when the call ended inside it; shape (0 or 1, channels)."""
        lacking = -len(self._rest) % self._format.frame_bytes
        return self.feed(silence(self._format, lacking))
