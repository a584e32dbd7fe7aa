"""A producer that goes on while things break: what Kafka did not acknowledge is an error of the test."""

import threading
import time
from collections.abc import Sequence

from confluent_kafka import KafkaError, Message, Producer

from pipeline.settings import Settings
from tests.faults.calls import Chunk


class Feed:
    """Produces records in a thread, evenly over `seconds`; `with` waits for all acknowledgements."""

    def __init__(self, settings: Settings, records: Sequence[Chunk], seconds: float = 0.0) -> None:
        self._topic = settings.topic("media")
        self._records = records
        self._seconds = seconds
        self._errors: list[str] = []
        self.acknowledged = 0
        self._producer = Producer(
            {
                "bootstrap.servers": settings.broker,
                "enable.idempotence": True,
                "acks": "all",
                "message.max.bytes": "4000000",
                "message.timeout.ms": "600000",
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "log_level": 0,
            }
        )
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def __enter__(self) -> "Feed":
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.join()

    def join(self) -> None:
        """Wait until everything is acknowledged."""
        self._thread.join()
        assert not self._errors, self._errors[:3]
        assert self.acknowledged == len(self._records)

    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        began_s = time.monotonic()
        for number, one in enumerate(self._records):
            due_s = began_s + self._seconds * number / max(1, len(self._records))
            while (left_s := due_s - time.monotonic()) > 0:
                self._producer.poll(min(left_s, 0.1))
            self._produce(one)
        self._producer.flush(600)

    def _produce(self, one: Chunk) -> None:
        headers: list[tuple[str, str | bytes | None]] = [(str(name), text.encode()) for name, text in one.headers.items()]
        key = None if one.key is None else one.key.encode()
        sent_ms = int((time.time() + one.clock_s) * 1000)
        while True:
            try:
                self._producer.produce(
                    self._topic, one.value, key, headers=headers, timestamp=sent_ms, on_delivery=self._delivered
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self._errors.append(error.str())
