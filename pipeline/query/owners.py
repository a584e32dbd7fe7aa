"""Who sent a request, and which tasks it may see."""

from collections.abc import Mapping
from typing import Any

import msgspec

from pipeline.query.errors import key_invalid

STATE_KEY = "callstream_caller"


class Caller(msgspec.Struct, frozen=True):
    """The API key that a request came with: its name, what it may see, and its own limits (None for the settings').

    `sees_calls`: tasks that no key started (live calls). `sees_all` is for where no keys are needed.
    """

    name: str | None = None
    sees_calls: bool = False
    sees_all: bool = False
    rate_limit: int | None = None
    concurrency: int | None = None
    is_gone: bool = False


ANYBODY = Caller(sees_all=True)
NOBODY = Caller()
GONE = Caller(is_gone=True)  # whose key was taken away while the request was being answered


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """Who sent the request of this ASGI scope; somebody who may see nothing when the gate has not said."""
    caller = scope.get(STATE_KEY)
    return caller if isinstance(caller, Caller) else NOBODY


def owner_of(scope: Mapping[str, Any]) -> str | None:
    """The owner of a task that this request starts. Raises as `check_known`: without an owner it would be everybody's."""
    check_known(scope)
    return caller_of(scope).name


def check_known(scope: Mapping[str, Any]) -> None:
    """Raises RequestRefusedError (401) when the request's key was taken away since it came."""
    if caller_of(scope).is_gone:
        raise key_invalid()


def is_visible(owner: str | None, scope: Mapping[str, Any]) -> bool:
    """Whether who sent this request may see a task of this owner."""
    caller = caller_of(scope)
    return caller.sees_all or (caller.sees_calls if owner is None else owner == caller.name)
