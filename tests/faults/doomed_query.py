"""A query service that kills itself with SIGKILL in the middle of a POST: `python -m tests.faults.doomed_query query`.

It is the real service; `CALLSTREAM_DOOM` says where it dies:

    kept:N        when its Nth request blob is in the store, before its record is sent
    started:N     when Kafka has acknowledged its Nth request, before the task is in the view and before anybody is answered
    remembered:N  when its Nth task is in the view, before anybody is answered
"""

import os
import sys

from pipeline.cli import main
from pipeline.query.spool import Spool
from pipeline.query.starter import Starter
from pipeline.query.tasks import Tasks
from tests.faults.doomed import _around, _countdown

PLACES: dict[str, tuple[type, str]] = {
    "kept": (Spool, "keep"),
    "started": (Starter, "start"),
    "remembered": (Tasks, "_remember"),
}

if __name__ == "__main__":
    place, number = os.environ["CALLSTREAM_DOOM"].split(":")
    _around(*PLACES[place], after=_countdown(int(number)))
    sys.exit(main())
