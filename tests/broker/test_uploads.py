"""Tasks that are started over HTTP from media files and from long lists: through real Kafka, a worker and the query service."""

import base64
import io
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from pipeline.sample import sample_path
from pipeline.scoring.voiceprint import SPEAKER_DIMENSION, VOICE_DIMENSION, encode, from_embeddings
from pipeline.settings import Settings
from schemas.tasks import Technology
from tests.system import System, open_system, wait_url

pytestmark = pytest.mark.broker

API = "/api/technology"
VAD = f"{API}/{Technology.VOICE_ACTIVITY_DETECTION.value}"
EXTRACTION = f"{API}/{Technology.VOICEPRINT_EXTRACTION.value}"
LANGUAGE = f"{API}/{Technology.LANGUAGE_IDENTIFICATION.value}"
GENDER = f"{API}/{Technology.GENDER_IDENTIFICATION.value}"
COMPARISON = f"{API}/{Technology.VOICEPRINT_COMPARISON.value}"
PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def running(broker_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, httpx.Client]]:
    settings = Settings(broker=broker_bootstrap, topic_prefix=f"u{uuid.uuid4().hex[:10]}.", partitions=2, language_model="tiny")
    with open_system(settings, tmp_path_factory.mktemp("uploads")) as system:
        system.start("worker")
        query = system.start("query", "--port", "0")
        with httpx.Client(base_url=wait_url(query), timeout=60) as client:
            yield system, client


@pytest.fixture
def client(running: tuple[System, httpx.Client]) -> httpx.Client:
    return running[1]


@pytest.fixture
def system(running: tuple[System, httpx.Client]) -> System:
    return running[0]


@pytest.fixture(scope="module")
def samples() -> tuple[Any, int]:
    """20 s of the bundled call, shape (n, 2), and its rate (Hz)."""
    frames, rate_hz = soundfile.read(sample_path(), dtype="int16", always_2d=True, frames=20 * 8000)
    return frames, rate_hz


def wav(frames: Any, rate_hz: int, format: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, frames, rate_hz, format=format, subtype=subtype)
    return buffer.getvalue()


def final(client: httpx.Client, location: str) -> dict[str, Any]:
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        answer = client.get(location, params={"wait": 10})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        if body["task"]["state"] in ("done", "failed", "rejected"):
            return body
        assert time.monotonic() < give_up_s, body


def start(client: httpx.Client, path: str, file: bytes, params: dict[str, Any] | None = None, config: Any = None) -> str:
    data = {} if config is None else {"config": json.dumps(config)}
    answer = client.post(path, files={"file": ("call.wav", file)}, data=data, params=params or {})
    assert answer.status_code == 202, answer.text
    assert answer.json()["task"]["state"] == "pending"
    location = answer.headers["location"]
    assert answer.headers["x-location"] == location
    assert location == f"{path}/{answer.json()['task']['task_id']}"
    assert client.get(location).status_code == 200  # known from then on
    return str(location)


def heard(client: httpx.Client, path: str, file: bytes, params: dict[str, Any] | None = None, config: Any = None) -> Any:
    body = final(client, start(client, path, file, params, config))
    assert body["task"]["state"] == "done", body
    return body["result"]["channels"]


def test_a_file_is_heard_as_the_same_audio_on_media_would_be(
    client: httpx.Client, system: System, samples: tuple[Any, int], tmp_path: Path
) -> None:
    frames, rate_hz = samples
    file = wav(frames, rate_hz)
    channels = heard(client, VAD, file)
    (tmp_path / "call.wav").write_bytes(file)
    call_id = f"sent-{uuid.uuid4()}"
    assert system.run("send", str(tmp_path / "call.wav"), "--call-id", call_id).returncode == 0
    record = system.wait_final(call_id, {"voice-activity-detection"})["voice-activity-detection"]
    assert channels == record["result"]["channels"]
    assert [channel["channel_number"] for channel in channels] == [0, 1]
    assert all(channel["speech_length"] > 3 for channel in channels)


@pytest.mark.parametrize(
    ("format", "subtype"),
    [("WAV", "ALAW"), ("WAV", "ULAW"), ("WAV", "GSM610"), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)],
)
def test_formats(client: httpx.Client, samples: tuple[Any, int], format: str, subtype: str | None) -> None:
    frames, rate_hz = samples
    mono = subtype == "GSM610" or format == "MP3"  # the one has no other, the other mixes the two
    frames = frames[: 6 * rate_hz, : 1 if mono else 2]
    channels = heard(client, VAD, wav(frames, rate_hz, format, subtype))
    plain = heard(client, VAD, wav(frames, rate_hz))
    assert [each["channel_number"] for each in channels] == list(range(frames.shape[1]))
    for found, expected in zip(channels, plain, strict=True):
        assert found["speech_length"] == pytest.approx(expected["speech_length"], abs=0.6)


def test_channels_and_ranges(client: httpx.Client, samples: tuple[Any, int]) -> None:
    frames, rate_hz = samples
    file = wav(frames, rate_hz)
    [second] = heard(client, VAD, file, {"channels": "1"})
    assert second["channel_number"] == 1
    [alone] = heard(client, VAD, wav(frames[:, 1], rate_hz))
    assert second["segments"] == alone["segments"]
    [mixed] = heard(client, VAD, file, {"channel_mode": "mix"})
    assert mixed["channel_number"] == 0
    ranged = heard(client, VAD, file, {"range_from": "5.5", "range_to": "12"})
    cut = heard(client, VAD, wav(frames[round(5.5 * rate_hz) : 12 * rate_hz], rate_hz))
    for found, expected in zip(ranged, cut, strict=True):
        assert found["speech_length"] == expected["speech_length"]
        times = [(each["start_time"] - 5.5, each["end_time"] - 5.5) for each in found["segments"]]
        assert times == [pytest.approx((each["start_time"], each["end_time"]), abs=1e-6) for each in expected["segments"]]


def test_voiceprints_of_a_file_are_compared(client: httpx.Client, samples: tuple[Any, int]) -> None:
    frames, rate_hz = samples
    whole = heard(client, EXTRACTION, wav(frames, rate_hz))
    capped = heard(client, EXTRACTION, wav(frames, rate_hz), {"max_speech_length": "2.5"})
    assert [each["speech_length"] for each in capped] == [2.5, 2.5]
    body = {"voiceprints_a": [each["voiceprint"] for each in whole], "voiceprints_b": [capped[0]["voiceprint"]]}
    answer = client.post(COMPARISON, json=body)
    result = final(client, answer.headers["location"])["result"]["scores"]
    assert (result["columns_count"], result["rows_count"]) == (2, 1)
    assert result["values"][0] > result["values"][1]


def test_languages_with_groups_and_priors(client: httpx.Client, samples: tuple[Any, int]) -> None:
    frames, rate_hz = samples
    config = {
        "languages": ["en", {"identifier": "de", "prior_weight": 0.5}],
        "groups": [{"identifier": "romance", "languages": ["it", "fr"]}],
    }
    first, second = heard(client, LANGUAGE, wav(frames, rate_hz), config=config)
    assert first["scores"][0]["identifier"] == "en"
    assert second["scores"][0]["identifier"] == "romance"
    assert second["scores"][0]["identifier_type"] == "group"
    assert second["scores"][0]["languages"][0]["identifier"] == "it"
    for channel in (first, second):
        units = [round(score["probability"] * 100_000) for score in channel["scores"]]
        assert sum(units) == 100_000


@pytest.mark.parametrize("file", [b"", b"no audio at all" * 100, b"RIFF\xff\xff\xff\xffWAVEfmt ", b"fLaC" + bytes(200)])
def test_what_is_no_audio_is_rejected(client: httpx.Client, system: System, file: bytes) -> None:
    location = start(client, VAD, file)
    body = final(client, location)
    assert body["task"]["state"] == "rejected"
    assert body["error"]["type"] == "task.validation-error"
    [detail] = body["error"]["detail"]
    assert detail["location"] == ["body", "file"]
    assert detail["type"] == "media.invalid"
    assert "/" not in detail["message"].replace("WAV/", "")  # no path of ours
    [records] = system.transitions(location.rpartition("/")[2]).values()
    steps = [(record["revision"], record["task"]["state"]) for record in records]
    assert steps == [(0, "pending"), (1, "running"), (2, "rejected")]


def test_groups_that_contradict_themselves_are_rejected(client: httpx.Client, system: System, samples: tuple[Any, int]) -> None:
    groups = [{"identifier": name, "languages": ["it"]} for name in ("one", "two")]
    location = start(client, LANGUAGE, wav(samples[0][:8000], samples[1]), config={"groups": groups})
    body = final(client, location)
    assert body["task"]["state"] == "rejected"
    [detail] = body["error"]["detail"]
    assert (detail["location"], detail["type"]) == (["body", "config"], "group.invalid")
    assert "grouped twice" in detail["message"]
    call_id = system.transitions(location.rpartition("/")[2])[Technology.LANGUAGE_IDENTIFICATION][0]["call_id"]
    assert system.dead_letters(call_id.encode()) == []


def test_a_channel_that_is_not_there_is_rejected(client: httpx.Client, samples: tuple[Any, int]) -> None:
    body = final(client, start(client, VAD, wav(samples[0][:8000], samples[1]), {"channels": "2"}))
    assert body["task"]["state"] == "rejected"
    assert "no channel 2" in body["error"]["detail"][0]["message"]


def test_silence_and_nothing(client: httpx.Client) -> None:
    silence = wav(np.zeros((8000, 2), np.int16), 8000)
    assert heard(client, VAD, silence) == [{"channel_number": n, "speech_length": 0.0, "segments": []} for n in (0, 1)]
    assert [each["speech_length"] for each in heard(client, EXTRACTION, silence)] == [0.0, 0.0]
    assert heard(client, VAD, silence, {"range_from": "5"}) == heard(client, VAD, silence)


def voiceprints(count: int, seed: int) -> list[str]:
    """Voiceprints of nobody, as Base64."""
    chance = np.random.default_rng(seed)
    speakers = chance.standard_normal((count, SPEAKER_DIMENSION)).astype(np.float32)
    voices = chance.standard_normal((count, VOICE_DIMENSION)).astype(np.float32)
    return [encode(from_embeddings(*pair, 5.0)) for pair in zip(speakers, voices, strict=True)]


def test_long_lists(client: httpx.Client, system: System) -> None:
    columns, rows = voiceprints(1500, 1), voiceprints(40, 2)
    answer = client.post(COMPARISON, json={"voiceprints_a": columns, "voiceprints_b": rows})
    assert answer.status_code == 202, answer.text
    scores = final(client, answer.headers["location"])["result"]["scores"]
    assert (scores["columns_count"], scores["rows_count"], len(scores["values"])) == (1500, 40, 60_000)
    few = client.post(COMPARISON, json={"voiceprints_a": columns[700:702], "voiceprints_b": rows[30:31]})
    small = final(client, few.headers["location"])["result"]["scores"]["values"]
    assert small == scores["values"][30 * 1500 + 700 : 30 * 1500 + 702]
    assert any((Path(system.environment["CALLSTREAM_DATA_DIR"]) / "blobs" / "requests").rglob("*"))
    genders = final(client, client.post(GENDER, json={"voiceprints": columns}).headers["location"])
    assert len(genders["result"]["voiceprints"]) == 1500


def test_a_list_that_holds_no_voiceprints_of_ours_is_rejected(client: httpx.Client) -> None:
    listed = [base64.b64encode(bytes(900)).decode()] * 2000
    body = final(client, client.post(GENDER, json={"voiceprints": listed}).headers["location"])
    assert body["task"]["state"] == "rejected"
    assert len(body["error"]["detail"]) == 100


def test_a_request_whose_blob_is_gone_is_a_dead_letter_and_says_nothing(system: System) -> None:
    task_id = str(uuid.uuid4())
    (Path(system.environment["CALLSTREAM_DATA_DIR"]) / "blobs" / "requests").mkdir(parents=True, exist_ok=True)  # it is mounted
    reference = {"name": f"requests/x/{task_id}", "sha256": "0" * 64, "size_bytes": 1}
    request = {"technology": "gender-identification-voiceprints", "lists": reference}
    system.produce("requests", task_id.encode(), json.dumps(request).encode())
    assert system.wait_dead_letter(task_id.encode())["error-type"] == "blob.missing"
    assert system.transitions(task_id) == {}
