"""What a worker says of itself: /ready while its membership is lost, and its end when its coordinator has failed for good."""

import contextlib
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # no __all__
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from prometheus_client.parser import text_string_to_metric_families

from pipeline.broker import EmbeddedBroker
from pipeline.broker.ports import free_port
from pipeline.watchdog import EXIT_ZOMBIE
from tests.broker_fixture import cache_dir
from tests.faults.admin import admin_of
from tests.faults.calls import SHORT, Call, make_call
from tests.faults.conftest import SESSION_TIMEOUT_S, settings_for
from tests.faults.feed import Feed
from tests.faults.outcome import Expected, Outcome
from tests.faults.pool import Pool
from tests.system import PATIENCE_S, System, open_system, wait_ready

pytestmark = pytest.mark.broker

AGENTS = ("vad", "extraction", "voiceprints", "language", "gender")  # those that this call's records reach


def send(system: System, name: str) -> Call:
    call = make_call(name, SHORT[0], random.Random(0), calm=True)
    with Feed(system.settings, call.chunks):
        pass
    return call


def test_ready_turns_false_without_a_broker_and_true_again(
    embedded_broker: EmbeddedBroker, tmp_path: Path, expected: Expected
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (
        open_system(settings_for(embedded_broker.bootstrap), tmp_path) as system,
        Outcome(system) as outcome,
        Pool(system, 1, CALLSTREAM_WORKER_PORT=str(port)) as pool,
    ):
        wait_ready(url, wanted=True)
        embedded_broker.kill()
        wait_ready(url, wanted=False)
        embedded_broker.restart()
        wait_ready(url, wanted=True)
        call = send(system, "behind")
        outcome.wait([call], PATIENCE_S)
        outcome.judge([call], expected).check()
        check_metrics(httpx.get(f"{url}/metrics").text, call)
        assert pool.exits == []


def check_metrics(text: str, call: Call) -> None:
    """Agents count their records, and how old each was; extraction its drafts."""
    told = {
        sample.name + "/" + sample.labels["agent"]: sample
        for one in text_string_to_metric_families(text)
        for sample in one.samples
        if "agent" in sample.labels and "le" not in sample.labels
    }
    assert told["callstream_records_total/vad"].value >= len(call.chunks)  # some may come twice behind a rebalance
    for agent in AGENTS:
        ages = told[f"callstream_record_age_seconds_count/{agent}"].value
        assert 0 < ages <= told[f"callstream_records_total/{agent}"].value
        assert told[f"callstream_dead_letters_total/{agent}"].value == 0
        assert told[f"callstream_breaker_open/{agent}"].value == 0
        assert 0 < told[f"callstream_record_age_seconds_sum/{agent}"].value / ages < PATIENCE_S
    assert told["callstream_drafts_begun_total/extraction"].value >= told["callstream_drafts_used_total/extraction"].value >= 0
    assert "process_resident_memory_bytes " in text


def test_ready_turns_false_when_a_frozen_worker_finds_its_partitions_gone(system: System, expected: Expected) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with Outcome(system) as outcome, Pool(system, 2, CALLSTREAM_WORKER_PORT="0") as pool:
        watched = system.start("worker", CALLSTREAM_WORKER_PORT=str(port))
        wait_ready(url, wanted=True)
        watched.signal(signal.SIGSTOP)
        time.sleep(SESSION_TIMEOUT_S + 2)
        watched.signal(signal.SIGCONT)
        wait_ready(url, wanted=False)
        wait_ready(url, wanted=True)
        assert watched.terminate() == 0
        call = send(system, "behind")
        outcome.wait([call], PATIENCE_S)
        outcome.judge([call], expected).check()
        assert pool.exits == []


@pytest.fixture
def guarded_broker() -> Iterator[EmbeddedBroker]:
    """A broker that asks an authorizer, and lets everybody do what no rule forbids."""
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with EmbeddedBroker(cache_dir(), properties=properties) as broker:
        yield broker


@contextlib.contextmanager
def forbidden(broker: EmbeddedBroker, group: str) -> Iterator[None]:
    """Nobody may be in this group."""
    admin = admin_of(broker.bootstrap)
    name = (ResourceType.GROUP, group, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", AclOperation.READ)
    for future in admin.create_acls([AclBinding(*name, AclPermissionType.DENY)]).values():
        future.result(30)
    try:
        yield
    finally:
        for rules in admin.delete_acls([AclBindingFilter(*name, AclPermissionType.DENY)]).values():
            rules.result(30)


def test_a_worker_ends_when_its_coordinator_has_failed_for_good(
    guarded_broker: EmbeddedBroker, tmp_path: Path, expected: Expected
) -> None:
    """While records are awaited Faust learns of it; before that aiokafka parks the error, and only the watchdog looks."""
    with open_system(settings_for(guarded_broker.bootstrap), tmp_path) as system, Outcome(system) as outcome:
        group = f"{system.settings.topic_prefix}callstream-extraction"
        working = system.start("worker")
        outcome.wait_joined()
        with forbidden(guarded_broker, group):
            assert working.wait(PATIENCE_S) != 0
            assert system.start("worker").wait(PATIENCE_S) == EXIT_ZOMBIE
            call = send(system, "meanwhile")
        with Pool(system, 1):
            outcome.wait([call], PATIENCE_S)
        outcome.judge([call], expected).check()
