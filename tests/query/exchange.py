"""A client at the application itself, which may stop reading or go away."""

import asyncio
from typing import Any

from pipeline.query.app import Service, create_app
from tests.query.arrivals import PATIENCE_S, Event, parsed


class Exchange:
    """One request to the application: its answer can be read piece by piece, or not at all, and its client can go away."""

    def __init__(self, service: Service, path: str, query: str, key: str = "") -> None:
        self._pieces: asyncio.Queue[Any] = asyncio.Queue()
        self._messages = iter([{"type": "http.request", "body": b"", "more_body": False}])
        self.gone, self.reading = asyncio.Event(), asyncio.Event()
        self.reading.set()
        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(b"x-api-key", key.encode())] if key else [],
            "client": ("127.0.0.1", 1), "server": ("query", 80), "state": {},
        }  # fmt: skip
        app: Any = create_app(service)
        self.work = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, object]:
        for message in self._messages:
            return message
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.reading.wait()
        self._pieces.put_nowait(message)

    async def message(self) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await self._pieces.get()

    async def body(self) -> bytes:
        message = await self.message()
        assert message["type"] == "http.response.body"
        return bytes(message["body"])

    async def events(self, count: int) -> list[Event]:
        return [parsed(await self.body()) for _ in range(count)]

    async def end(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.work
