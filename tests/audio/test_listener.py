"""What a call's listener gives before an utterance has ended."""

import soundfile

from pipeline.audio.listener import CallListener, HeardUtterance
from pipeline.models.silero import SileroVad
from pipeline.sample import sample_path
from schemas.media import AudioFormat

FORMAT = AudioFormat(sample_rate_hz=8000, channels=2)
CHUNK = 8000 // 4


def test_most_utterances_pause_before_they_end_and_are_the_same_then(silero: SileroVad) -> None:
    frames, _ = soundfile.read(sample_path(), dtype="int16", always_2d=True)
    listener = CallListener(FORMAT, silero)
    paused: dict[int, HeardUtterance] = {}
    ended = same = ahead = 0
    for at in range(0, len(frames), CHUNK):
        for one in listener.feed(frames[at : at + CHUNK].astype("<i2").tobytes()):
            if not isinstance(one, HeardUtterance):
                continue
            before = paused.pop(one.channel, None)
            ended += 1
            if before is not None and before.span == one.span:
                same += 1
                assert before.audio.tobytes() == one.audio.tobytes()
            elif before is not None:  # speech went on behind it
                ahead += 1
                assert before.span.start_sample == one.span.start_sample
                assert before.span.end_sample < one.span.end_sample
                assert one.audio[: len(before.audio)].tobytes() == before.audio.tobytes()
        paused |= {one.channel: one for one in listener.pausing()}
    assert ended > 20
    assert same > ended / 2
    assert ahead < ended / 4
