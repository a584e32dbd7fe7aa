"""What is POSTed while things break, and what came of it: on Kafka, over HTTP, and in the folder of blobs."""

import io
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import soundfile
from confluent_kafka import KafkaException

from pipeline.sample import sample_path
from pipeline.scoring.voiceprint import SPEAKER_DIMENSION, VOICE_DIMENSION, encode, from_embeddings
from schemas.tasks import Technology
from tests.faults.outcome import Outcome, Task, Verdict
from tests.system import PATIENCE_S, Process, System, wait_url

API = "/api/technology"
RATE_HZ = 8000
GRACE = {"CALLSTREAM_BLOB_GRACE_S": "1"}
LONG_LIST = 1100  # voiceprints in a list that does not go in a record

Expected = Mapping["Upload", Sequence[bytes]]


@dataclass(frozen=True)
class Upload:
    """A body to POST: a file by its name, or lists of so many voiceprints."""

    technology: Technology
    file: str | None = None
    lists: tuple[int, int] | None = None

    @property
    def path(self) -> str:
        return f"{API}/{self.technology.value}"

    @property
    def has_blob(self) -> bool:
        return self.lists is None or sum(self.lists) >= LONG_LIST

    def send(self, client: httpx.Client) -> httpx.Response:
        if self.lists is not None:
            return client.post(self.path, content=lists(*self.lists), headers={"content-type": "application/json"})
        assert self.file is not None
        return client.post(self.path, files={"file": (self.file, content(self.file))})


FILES = ("two.wav", "one.flac", "two.mp3", "law.wav", "long.flac", "junk.wav", "cut.flac")
MEDIA = (Technology.VOICE_ACTIVITY_DETECTION, Technology.VOICEPRINT_EXTRACTION, Technology.LANGUAGE_IDENTIFICATION)
MEGABYTES = Upload(Technology.VOICE_ACTIVITY_DETECTION, "megabytes.wav")
SMALL = Upload(Technology.VOICE_ACTIVITY_DETECTION, "one.flac")
SHORT_LISTS = Upload(Technology.VOICEPRINT_COMPARISON, lists=(2, 3))
LONG_LISTS = Upload(Technology.VOICEPRINT_COMPARISON, lists=(LONG_LIST, 10))
LARGE_RESULT = Upload(Technology.VOICEPRINT_COMPARISON, lists=(LONG_LIST, 150))
FROM_FILES = tuple(Upload(technology, name) for technology in MEDIA for name in FILES)
FROM_LISTS = (SHORT_LISTS, LONG_LISTS, LARGE_RESULT)
REJECTED = ("junk.wav", "cut.flac")


@cache
def content(name: str) -> bytes:
    """The bytes of a file."""
    match name:
        case "two.wav":
            return _encoded(14.0, 4.0, [0, 1], "WAV", "PCM_16")
        case "one.flac":
            return _encoded(27.5, 3.0, [0], "FLAC", "PCM_16")
        case "two.mp3":
            return _encoded(44.8, 3.0, [0, 1], "MP3", None)
        case "law.wav":
            return _encoded(9.4, 2.5, [1], "WAV", "ALAW")
        case "long.flac":
            return _encoded(0.0, 18.0, [0], "FLAC", "PCM_16")
        case "cut.flac":
            return content("one.flac")[:60]
        case "megabytes.wav":
            return _encoded_frames(np.zeros(3_000_000 // 2, np.int16), "WAV", "PCM_16")
        case _:
            return b"no audio at all" * 100


def _encoded(start_s: float, length_s: float, channels: list[int], format: str, subtype: str | None) -> bytes:
    begin, end = round(start_s * RATE_HZ), round((start_s + length_s) * RATE_HZ)
    frames, _ = soundfile.read(sample_path(), dtype="int16", always_2d=True, start=begin, stop=end)
    return _encoded_frames(np.asarray(frames[:, channels], np.int16), format, subtype)


def _encoded_frames(frames: np.ndarray[tuple[int, ...], np.dtype[np.int16]], format: str, subtype: str | None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, frames, RATE_HZ, format=format, subtype=subtype)
    return buffer.getvalue()


@cache
def lists(columns: int, rows: int) -> bytes:
    """Lists of voiceprints of nobody, as a body."""
    chance = np.random.default_rng(columns * rows)
    speakers = chance.standard_normal((columns + rows, SPEAKER_DIMENSION)).astype(np.float32)
    voices = chance.standard_normal((columns + rows, VOICE_DIMENSION)).astype(np.float32)
    texts = [encode(from_embeddings(*pair, 5.0)) for pair in zip(speakers, voices, strict=True)]
    return json.dumps({"voiceprints_a": texts[:columns], "voiceprints_b": texts[columns:]}).encode()


def accepted(answer: httpx.Response) -> str:
    """The id of the task that was started."""
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task"]["task_id"])


def start(client: httpx.Client, uploads: Iterable[Upload]) -> dict[str, Upload]:
    """POST these; what each task was started from."""
    return {accepted(upload.send(client)): upload for upload in uploads}


def serve(system: System, **environment: str) -> tuple[Process, httpx.Client]:
    """A query service that is up, and a client of it."""
    query = system.start("query", "--port", "0", **(GRACE | environment))
    return query, httpx.Client(base_url=wait_url(query), timeout=60)


def _is_final(outcome: Outcome, task_id: str) -> bool:
    return task_id in outcome.tasks and bool(outcome.tasks[task_id].finals)


def wait_final(outcome: Outcome, task_ids: Iterable[str]) -> None:
    """Until these tasks are final and nothing lags; as long as something goes on."""
    wanted, left = set(task_ids), (2**60, 2**60)
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        while outcome.poll():
            pass
        wanted = {task_id for task_id in wanted if not _is_final(outcome, task_id)}
        lag = lag_or_unknown(outcome)
        if not wanted and not lag:
            return
        if (len(wanted), lag) < left:
            left, give_up_s = (len(wanted), lag), time.monotonic() + PATIENCE_S
        assert time.monotonic() < give_up_s, f"{wanted} are not final, lag {lag}\n{outcome.system.logs()}"
        time.sleep(0.2)


def lag_or_unknown(outcome: Outcome) -> int:
    try:
        return sum(outcome.lag().values())
    except KafkaException:
        return 1


def values(task: Task, task_id: str) -> list[bytes]:
    """The values of a task's revisions, without the names of the task, its call, and the folder of its result."""
    return [_anonymous(found[0], task_id) for _, found in sorted(task.revisions.items())]


def _anonymous(value: bytes, task_id: str) -> bytes:
    body = json.loads(value)
    folder = str(body.get("result_ref", "?")).rpartition("/")[0]
    names = {f'"{folder}/': '"', f'"{body.get("call_id", "?")}"': '"CALL"', task_id: "TASK"}
    for name, instead in names.items():
        value = value.replace(name.encode(), instead.encode())
    return value


def judge(outcome: Outcome, tasks: Mapping[str, Upload], expected: Expected) -> Verdict:
    """Hold tasks against an undisturbed run of the same uploads."""
    verdict = Verdict()
    for task_id, upload in tasks.items():
        task, name = outcome.tasks.get(task_id, Task()), f"{task_id} {upload}"
        verdict.tasks += 1
        verdict.duplicates += task.records - sum(map(len, task.revisions.values()))
        if not task.finals:
            verdict.lost.append(name)
        elif len(task.finals) > 1 or any(len(each) > 1 for each in task.revisions.values()):
            verdict.conflicting.append(name)
        elif sorted(task.revisions) != list(range(len(task.revisions))):
            verdict.gaps.append(name)
        elif values(task, task_id) != list(expected[upload]):
            verdict.different.append(name)
    return verdict


class Folder:
    """A data folder: what is in it for uploads and results."""

    def __init__(self, data: Path, blobs: Path | None = None) -> None:
        self._scratch, self._blobs = data / "scratch", blobs or data / "blobs"

    @classmethod
    def of(cls, system: System) -> "Folder":
        return cls(Path(system.environment["CALLSTREAM_DATA_DIR"]))

    def requests(self) -> set[str]:
        """Task ids."""
        return {path.name for path in self._files("requests")}

    def results(self) -> set[str]:
        """Names as records refer to them."""
        return {str(path.relative_to(self._blobs)) for path in self._files("results")}

    def scratch(self) -> set[str]:
        return {path.name for path in self._scratch.glob("*")}

    def _files(self, kind: str) -> list[Path]:
        return [path for path in (self._blobs / kind).rglob("*") if path.is_file()]

    def wait_swept(self, results: Iterable[str] = (), requests: Iterable[str] = ()) -> None:
        """Until nothing is left but these."""
        wanted = set(results), set(requests), set[str]()
        give_up_s = time.monotonic() + PATIENCE_S
        while (found := (self.results(), self.requests(), self.scratch())) != wanted:
            assert time.monotonic() < give_up_s, found
            time.sleep(0.2)


def result_refs(outcome: Outcome) -> set[str]:
    """What the final records refer to."""
    finals = [json.loads(value) for task in outcome.tasks.values() for value in task.finals]
    return {final["result_ref"] for final in finals if "result_ref" in final}


def letters(system: System) -> dict[str, str]:
    """`error-type` of the dead letters by key."""
    found = {}
    for message in system.read("dead-letters"):
        headers = {name: bytes(value or b"").decode() for name, value in dict(message.headers() or []).items()}  # type: ignore[arg-type]
        found[(message.key() or b"").decode()] = headers["error-type"]
    return found


def requested(system: System) -> set[str]:
    """The tasks whose requests are on Kafka."""
    return {(message.key() or b"").decode() for message in system.read("requests")}
