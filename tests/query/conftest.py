"""The real service on a view in a temporary folder; its Kafka address leads nowhere unless a test gives one."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from pipeline.query.app import Service, create_app
from pipeline.query.view import View
from pipeline.settings import Settings

DAY_S = 86_400.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(broker="127.0.0.1:1", data_dir=str(tmp_path / "data"), port=0, max_body_bytes=400_000)


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    opened = View(tmp_path / "view", DAY_S)
    yield opened
    opened.close()


def alone(settings: Settings) -> Service:
    """A service that follows no topic: what is put into its view is all that there is."""
    made = Service(settings)
    made.follower.complete.set()
    return made


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    made = alone(settings)
    yield made
    await made.close()


def client_of(service: Service) -> httpx.AsyncClient:
    app: Any = create_app(service)  # httpx words the ASGI types in its own way
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(service) as opened:
        yield opened


def replaced(settings: Settings, **values: object) -> Settings:
    return msgspec.structs.replace(settings, **values)
