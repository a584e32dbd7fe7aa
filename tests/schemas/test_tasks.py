"""Task ids are a contract: a producer computes them itself, before its call ends."""

import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.tasks import NAMESPACE, TaskState, Technology, call_task_id, request_task_id

# Computed from RFC 9562, section 5.5, with SHA-1 alone, for the call id `call-1`.
CALL_1 = {
    "voice-activity-detection": "39d15e7d-38f2-55c2-8464-cde95b58a3a1",
    "speaker-identification-voiceprint-extraction": "18271196-4a3f-59db-af4f-74e0f3fa98cc",
    "language-identification": "f896bf43-d04d-5641-90cd-309f76645f14",
    "gender-identification-voiceprints": "3b585c59-7589-5de6-964f-866016ac1ed1",
    "speaker-identification-voiceprint-comparison": "1bf876e1-dfcb-54e8-b04b-d4145f201131",
}


def test_namespace() -> None:
    assert str(NAMESPACE) == "50b4b431-8b1f-58db-bfbc-ebac0f3e45c4"


def test_call_task_ids() -> None:
    assert {technology.value: call_task_id("call-1", technology) for technology in Technology} == CALL_1


def test_a_call_id_is_hashed_as_utf8() -> None:
    task_id = call_task_id("hovor č. 1", Technology.VOICE_ACTIVITY_DETECTION)
    assert task_id == "29ec2084-0acf-5345-a011-970f5c96be95"


def test_request_task_id() -> None:
    task_id = request_task_id("requests/3/1042/gender-identification-voiceprints")
    assert task_id == "7af5d524-fc41-597c-b79f-f417287d80b8"


@given(call_id=st.text(min_size=1, max_size=128), technology=st.sampled_from(Technology))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_formula_of_the_contract(call_id: str, technology: Technology) -> None:
    namespace = uuid.uuid5(uuid.NAMESPACE_URL, "callstream")
    assert call_task_id(call_id, technology) == str(uuid.uuid5(namespace, f"{call_id}/{technology.value}"))


@pytest.mark.parametrize("state", TaskState)
def test_final_states(state: TaskState) -> None:
    assert state.is_final == (state.value in {"done", "failed", "rejected"})
