"""A client of the query service, as a user would write one."""

import asyncio
from typing import Any

import aiohttp
import msgspec

from schemas.tasks import Technology

_FINAL = ("done", "failed", "rejected")
_POLL_S = 0.1


class QueryClient:
    """GET and POST tasks at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __aenter__(self) -> "QueryClient":
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, technology: Technology, task_id: str) -> tuple[str, bytes]:
        """The URL of a task and the answer to GET once it is final; the view may be a moment behind the topic."""
        return await self._poll(f"{self.url}/api/technology/{technology.value}/{task_id}")

    async def post_and_wait(self, technology: Technology, body: Any) -> tuple[str, bytes]:  # noqa: ANN401 - any JSON
        """Start a task and poll it to its end, as X-Location says. Raises aiohttp.ClientResponseError."""
        async with self._session.post(
            f"{self.url}/api/technology/{technology.value}", json=body, raise_for_status=True
        ) as response:
            location = response.headers["X-Location"]
        return await self._poll(self.url + location)

    async def _poll(self, url: str) -> tuple[str, bytes]:
        while True:
            async with self._session.get(url) as response:
                body = await response.read()
                if response.status == 200 and msgspec.json.decode(body)["task"]["state"] in _FINAL:
                    return url, body
            await asyncio.sleep(_POLL_S)
