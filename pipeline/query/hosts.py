"""Which host a request is meant for, and whether a page of somebody else sends it.

Where a service without keys listens keeps other machines out, but not this one's browser: any page that it shows may send
requests to 127.0.0.1, and one whose own name is made to lead there (DNS rebinding) may read the answers. A browser says both,
in `origin` and `host`.
"""

from urllib.parse import unquote, urlsplit

from litestar.types import Scope

from pipeline.query.addresses import is_loopback
from pipeline.settings import Settings

_ABSOLUTE = (b"http://", b"https://")


class OwnHosts:
    """Knows what is meant for this machine, by a name of its own, and comes from no page or one of its own."""

    def __init__(self, settings: Settings) -> None:
        self._names = {_plain(name) for name in (settings.host, *settings.host_names.split(","))} - {""}

    def foreign(self, scope: Scope) -> str | None:
        """The header that names another host, if one does. Programs send no origin (RFC 6454, 7), of HTTP/1.0 maybe no host."""
        for name, value in scope["headers"]:
            text = value.decode("latin-1")
            if name == b"host" and not self._is_ours(f"//{text}"):
                return "host"
            if name == b"origin" and not self._is_ours(text):
                return "origin"
        return None

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
