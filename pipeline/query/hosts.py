"""Which host a request is meant for, and whether a page of somebody else sends it.

Where a service without keys listens keeps other machines out, but not this one's browser: any page that it shows may send
requests to 127.0.0.1, and one whose own name is made to lead there (DNS rebinding) may read the answers. A browser says so: in
`host`, in `origin`, and, where it sends no origin (images, scripts), in `sec-fetch-site` (https://www.w3.org/TR/fetch-metadata/).
"""

import socket
from urllib.parse import unquote, urlsplit

from litestar.types import Scope

from pipeline.query.addresses import is_loopback
from pipeline.settings import Settings

_ABSOLUTE = (b"http://", b"https://")


class OwnHosts:
    """Knows what is meant for this machine, by a name of its own, and comes from no page or one of its own."""

    def __init__(self, settings: Settings) -> None:
        names = (settings.host, socket.gethostname(), *settings.host_names.split(","))
        self._names = {_plain(name) for name in names} - {""}

    def foreign(self, scope: Scope) -> str | None:
        """The header that names another host, if one does. Programs send no origin (RFC 6454, 7), of HTTP/1.0 maybe no host."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host"), headers.get(b"origin")
        if host is not None and not self._is_ours(f"//{host}"):
            return "host"
        if origin is not None:
            return None if self._is_ours(origin) else "origin"
        is_link = headers.get(b"sec-fetch-mode") == "navigate"  # somebody follows it, and no page sees the answer
        return "sec-fetch-site" if headers.get(b"sec-fetch-site") == "cross-site" and not is_link else None

    def _is_ours(self, url: str) -> bool:
        try:
            name = _plain(urlsplit(url).hostname or "")
        except ValueError:
            return False
        return name in self._names or name == "localhost" or name.endswith(".localhost") or is_loopback(name)


def _plain(name: str) -> str:
    return name.strip().lower().removesuffix(".")


def to_origin_form(scope: Scope) -> None:
    """Take the host and the path out of a target that is a whole URL, as clients of proxies send it (RFC 9112, 3.2.2)."""
    target = scope.get("raw_path") or b""
    if not target.lower().startswith(_ABSOLUTE):
        return
    host, _, path = target.partition(b"://")[2].partition(b"/")
    scope["raw_path"] = b"/" + path
    scope["path"] = unquote("/" + path.decode("ascii"))
    scope["headers"] = [*((name, value) for name, value in scope["headers"] if name != b"host"), (b"host", host)]
