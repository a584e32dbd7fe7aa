"""Who may come in, and how often: API keys, the rate limit, and how many requests at once."""

import contextlib
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from litestar.types import Scope

from pipeline.query.addresses import client_of, counted_as, is_loopback
from pipeline.query.errors import RequestRefusedError, head_too_large, host_foreign, key_invalid, key_missing, request_invalid
from pipeline.query.hosts import OwnHosts
from pipeline.query.keys import Keyring
from pipeline.query.owners import ANYBODY, GONE, NOBODY, STATE_KEY, Caller
from pipeline.query.rate_limit import AtOnce, RateLimiter
from pipeline.settings import Settings

OPEN_PATHS = frozenset({"/health", "/ready"})
METRICS_PATH = "/metrics"
FAILURE_WINDOW_S = 60
KEY_CONCURRENCY = 64  # where nothing else is set
MAX_HEADERS = 100
MAX_HEAD_BYTES = 32_768


def _check_head(scope: Scope) -> None:
    # h11 only counts what it waits for: a head that came in one piece may be larger
    headers = list(scope["headers"])
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEAD_BYTES:
        raise head_too_large(MAX_HEADERS, MAX_HEAD_BYTES)
    for part in (scope.get("raw_path") or b"", scope["query_string"]):
        try:
            unquote_to_bytes(part).decode()
        except UnicodeDecodeError:  # servers put other characters in its place, and would answer for what nobody asked
            raise request_invalid() from None


def presented_keys(scope: Scope) -> set[bytes]:
    """The keys that a request came with: `Authorization: Bearer KEY` or `X-API-Key: KEY`."""
    found = set()
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            found.add(value.strip())
        elif name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                found.add(key.strip())
    return found - {b""}


class Gate:
    """Decides about each request before any of it is looked at further."""

    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self._keyring, self._hosts = keyring, OwnHosts(settings)
        self._inside: dict[int, Scope] = {}  # the requests with a key that are being answered
        self._requests = RateLimiter(settings.rate_limit, settings.rate_window_s)
        self._failures = RateLimiter(settings.key_failure_limit, FAILURE_WINDOW_S)
        # without keys, all clients behind one address are one
        self._at_once = AtOnce(settings.concurrency or (0 if keyring.is_empty else KEY_CONCURRENCY))

    @contextlib.contextmanager
    def admitted(self, scope: Scope) -> Iterator[None]:
        """While a request is answered; afterwards `caller_of` knows whose it is. Raises RequestRefusedError."""
        _check_head(scope)
        if self._is_open(scope):
            scope[STATE_KEY] = NOBODY  # type: ignore[literal-required]  # ASGI lets servers and middleware add keys
            yield
            return
        if self._keyring.is_empty and (header := self._hosts.foreign(scope)):
            raise host_foreign(header)
        address = counted_as(client_of(scope))
        caller = ANYBODY if self._keyring.is_empty else self._holder(scope, address)
        scope[STATE_KEY] = caller  # type: ignore[literal-required]  # as above
        client = caller.name or address
        self._check_rate(client, caller)
        self._at_once.enter(client, caller.concurrency)
        self._inside[id(scope)] = scope
        try:
            yield
        finally:
            del self._inside[id(scope)]
            self._at_once.leave(client)

    def recheck(self) -> None:
        """The keys are others now: they count for the requests that are being answered, too."""
        for scope in self._inside.values() if not self._keyring.is_empty else ():
            found = self._found(presented_keys(scope))
            scope[STATE_KEY] = GONE if isinstance(found, RequestRefusedError) else found  # type: ignore[literal-required]  # as above

    def _is_open(self, scope: Scope) -> bool:
        # Everything else needs a key, also a path that leads nowhere: no spelling of a path gets around it.
        path = scope["path"].rstrip("/")
        return path in OPEN_PATHS or (path == METRICS_PATH and self._is_local(scope))

    def _is_local(self, scope: Scope) -> bool:
        return is_loopback(client_of(scope)) and self._hosts.foreign(scope) is None

    def _check_rate(self, client: str, caller: Caller) -> None:
        refusal = self._requests.refusal(client, caller.rate_limit)
        self._requests.count(client)
        if refusal is not None:
            raise refusal

    def _holder(self, scope: Scope, address: str) -> Caller:
        if (refusal := self._failures.refusal(address)) is not None:  # before its key is looked at
            raise refusal
        found = self._found(presented_keys(scope))
        if isinstance(found, RequestRefusedError):
            self._failures.count(address)
            raise found
        return found

    def _found(self, keys: set[bytes]) -> Caller | RequestRefusedError:
        if not keys:
            return key_missing()
        caller = self._keyring.find(keys.pop()) if len(keys) == 1 else None
        return caller or key_invalid()
