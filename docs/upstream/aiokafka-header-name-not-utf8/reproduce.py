"""A header's name that is not UTF-8 ends the reading of its partition."""

import sys

from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 10_000)
builder.append(0, timestamp=0, key=None, value=b"value", headers=[("name", b"")])
batch = bytes(builder.build()).replace(b"name", b"nam\xff")  # Kafka takes it: a name is any bytes there

try:
    print([record.headers for record in DefaultRecordBatch(batch)])
except UnicodeDecodeError as error:
    print(error)
    print("REPRODUCED")
    sys.exit(0)
print("not reproduced")
sys.exit(1)
