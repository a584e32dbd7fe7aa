"""Kafka with TLS and passwords: everything works through each kind of listener, and every refusal is one clear line."""

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import soundfile
from confluent_kafka import Consumer, TopicPartition

from pipeline.sample import sample_path
from pipeline.settings import Settings
from pipeline.topics import TOPICS
from tests.broker.secured import PASSWORD, PLAIN_PASSWORD, PLAIN_USER, USER, Authority, Secured, open_secured
from tests.broker.test_chain import ALL, GENDER, LANGUAGE, VOICEPRINT
from tests.broker_fixture import cache_dir
from tests.system import PATIENCE_S, System, http, open_system, wait_answer, wait_url

pytestmark = pytest.mark.broker

CALL_S = 10


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with open_secured(cache_dir(), tmp_path_factory.mktemp("secured")) as opened:
        yield opened


@pytest.fixture(scope="module")
def call_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of the bundled call."""
    frames, rate_hz = soundfile.read(sample_path(), dtype="int16", frames=CALL_S * soundfile.info(sample_path()).samplerate)
    path = tmp_path_factory.mktemp("call") / "short.wav"
    soundfile.write(path, frames, rate_hz)
    return path


def prefixed(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, topic_prefix=f"t{uuid.uuid4().hex[:10]}.")


def through(kafka: Secured, kind: str, mechanism: str, folder: Path) -> Settings:
    """Settings for one kind of listener, with a client certificate for TLS alone and the password in a file for the rest."""
    if kind == "SSL":
        certificate, key = kafka.authority.issue(f"client-{uuid.uuid4().hex[:6]}")
        return prefixed(kafka.settings(kind, kafka_cert_file=str(certificate), kafka_key_file=str(key)))
    password_file = folder / "password"
    password_file.write_text(f"{PASSWORD}\n")
    given = {"kafka_mechanism": mechanism, "kafka_password": "", "kafka_password_file": str(password_file)}
    return prefixed(kafka.settings(kind, **given))


def sent_call(system: System, path: Path) -> dict[str, str]:
    """Send a call; its tasks."""
    sent = system.run("send", str(path), "--call-id", "call", "--json")
    assert sent.returncode == 0, sent.stderr
    tasks: dict[str, str] = json.loads(sent.stdout)["tasks"]
    return tasks


def everything_said(system: System) -> str:
    return "".join(path.read_text() for path in system.folder.glob("*.log"))


@pytest.mark.parametrize(
    ("kind", "mechanism"), [("SSL", ""), ("SASL_PLAINTEXT", "SCRAM-SHA-256"), ("SASL_SSL", "SCRAM-SHA-512")]
)
def test_a_call_and_a_start_task_go_through(kafka: Secured, call_file: Path, tmp_path: Path, kind: str, mechanism: str) -> None:
    with open_system(through(kafka, kind, mechanism, tmp_path), tmp_path / "system") as system:
        system.start("worker", CALLSTREAM_LOG_LEVEL="INFO" if kind == "SSL" else "DEBUG")
        tasks = sent_call(system, call_file)
        watched = system.run("watch", "--call-id", "call")
        assert watched.returncode == 0, watched.stderr + system.logs()
        last = system.wait_final("call", ALL)
        assert {body["task"]["state"] for body in last.values()} == {"done"}
        print_of_one = last[VOICEPRINT]["result"]["channels"][0]["voiceprint"]
        url = wait_url(system.start("query", "--port", "0"))
        status, _, started = http("POST", f"{url}/api/technology/{GENDER}", {"voiceprints": [print_of_one]})
        assert status == 202, started
        final = system.wait_final(started["task"]["task_id"], {GENDER})[GENDER]
        assert final["task"]["state"] == "done"
        assert wait_answer(url, LANGUAGE, tasks[LANGUAGE])["task"]["state"] == "done"
        assert PASSWORD not in everything_said(system)


def test_a_plain_password_is_taken_and_dead_letters_are_read(kafka: Secured, call_file: Path, tmp_path: Path) -> None:
    bob = {"kafka_mechanism": "PLAIN", "kafka_username": PLAIN_USER, "kafka_password": PLAIN_PASSWORD}
    with open_system(prefixed(kafka.settings("SASL_SSL", **bob)), tmp_path) as system:
        sent_call(system, call_file)
        system.produce(
            "dead-letters", b"call", b"?", {"error-type": "encoding.unknown", "source": f"{system.settings.topic('media')}/0/0"}
        )
        listed = system.run("dead-letters", "list")
        assert listed.returncode == 0, listed.stderr
        assert "encoding.unknown" in listed.stdout
        replayed = system.run("dead-letters", "replay", "--all")
        assert replayed.returncode == 0, replayed.stdout + replayed.stderr
        assert len(system.read("media")) == 2 * CALL_S + 1


REFUSED = ["authority", "host name", "no certificate", "password", "user", "mechanism"]


def refused(kafka: Secured, why: str, folder: Path) -> tuple[Settings, list[str]]:
    """Settings that cannot be right, and what must be said of them."""
    match why:
        case "authority":
            other = str(Authority(folder / "other").certificate)
            return kafka.settings("SASL_SSL", kafka_ca_file=other), ["not trusted", "CALLSTREAM_KAFKA_CA_FILE"]
        case "host name":
            return kafka.settings("SASL_SSL", host="127.0.0.1"), ["not trusted", "127.0.0.1", "CALLSTREAM_BROKER"]
        case "no certificate":
            return kafka.settings("SSL"), ["CALLSTREAM_KAFKA_CERT_FILE"]
        case "password":
            return kafka.settings("SASL_SSL", kafka_password="wrong secret"), [
                repr(USER),
                "SCRAM-SHA-512",
                "CALLSTREAM_KAFKA_PASSWORD",
            ]
        case "user":
            wrong = {"kafka_username": "nobody", "kafka_mechanism": "SCRAM-SHA-256"}
            return kafka.settings("SASL_PLAINTEXT", **wrong), ["'nobody'", "SCRAM-SHA-256", "CALLSTREAM_KAFKA_USERNAME"]
        case _:
            return kafka.settings("SASL_PLAINTEXT", kafka_mechanism="PLAIN"), [repr(USER), "CALLSTREAM_KAFKA_MECHANISM"]


def records(plain: Settings) -> int:
    """How many there are on all topics."""
    consumer = Consumer({"bootstrap.servers": plain.broker, "group.id": "nobody", "log_level": 0})
    try:
        places = [TopicPartition(plain.topic(topic.name), 0) for topic in TOPICS]
        return sum(consumer.get_watermark_offsets(place, timeout=60)[1] for place in places)
    finally:
        consumer.close()


@pytest.mark.parametrize("why", REFUSED)
def test_what_kafka_or_we_refuse_ends_with_one_line_and_nothing_is_written(
    kafka: Secured, call_file: Path, tmp_path: Path, why: str
) -> None:
    plain = prefixed(kafka.plain)
    settings, words = refused(kafka, why, tmp_path)
    with open_system(plain, tmp_path / "system"):
        system = System(msgspec.structs.replace(settings, topic_prefix=plain.topic_prefix), tmp_path)
        commands = [["send", str(call_file)], ["worker"]]
        if why == "password":  # the rest once
            commands += [["topics"], ["watch"], ["dead-letters", "list"]]
        for command in commands:
            done = system.run(*command, CALLSTREAM_LOG_LEVEL="DEBUG" if command == ["send"] else "WARNING")
            assert (done.returncode, done.stdout) == (1, ""), done.stderr
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert all(word in done.stderr for word in words), done.stderr
            assert settings.kafka_password == "" or settings.kafka_password not in done.stderr
        assert records(plain) == 0


def test_a_query_service_that_is_refused_says_why_and_starts_nothing(kafka: Secured, tmp_path: Path) -> None:
    plain = prefixed(kafka.plain)
    wrong = kafka.settings("SASL_SSL", kafka_password="wrong secret", host="localhost")
    with open_system(plain, tmp_path / "system"):
        system = System(msgspec.structs.replace(wrong, topic_prefix=plain.topic_prefix), tmp_path)
        try:
            process = system.start("query", "--port", "0")
            url = wait_url(process)
            status, _, body = http("GET", f"{url}/ready")
            assert status == 503, body
            assert http("POST", f"{url}/api/technology/{GENDER}", {"voiceprints": ["AAAA"]})[0] >= 500
            give_up_s = time.monotonic() + PATIENCE_S  # the first knock at Kafka may take its time
            while "refuses user" not in (said := http("GET", f"{url}/ready")[2]["checks"]["kafka"]):
                assert time.monotonic() < give_up_s, said
                time.sleep(0.2)
            assert "refuses user" in process.log.read_text()
            assert "wrong secret" not in everything_said(system)
        finally:
            system.close()
        assert records(plain) == 0


def test_a_listener_of_another_kind_hangs_up_and_the_setting_to_look_at_is_named(
    kafka: Secured, call_file: Path, tmp_path: Path
) -> None:
    insecure = msgspec.structs.replace(kafka.plain, broker=f"localhost:{kafka.ports['SASL_PLAINTEXT']}")
    system = System(insecure, tmp_path)
    done = system.run("send", str(call_file))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "hangs up" in done.stderr
    assert "CALLSTREAM_KAFKA_SECURITY" in done.stderr
    worker = system.start("worker")  # it may be a broker that is starting: a worker waits, and says so again and again
    try:
        give_up_s = time.monotonic() + PATIENCE_S
        while worker.log.read_text().count("CALLSTREAM_KAFKA_SECURITY") < 2:
            assert time.monotonic() < give_up_s, worker.log.read_text()
            time.sleep(0.2)
        assert worker.poll() is None
    finally:
        system.close()
