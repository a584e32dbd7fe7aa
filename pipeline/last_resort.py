"""Ends a process that is to end and may not bring itself to: Python waits without end for a thread that a hung disk holds."""

import logging
import os
import threading

logger = logging.getLogger(__name__)


def end_within(within_s: float, code: int, what: str) -> None:
    """Give it so long to end by itself; `what` is what the log says of who did not."""
    timer = threading.Timer(within_s, _give_up, [within_s, code, what])
    timer.daemon = True
    timer.start()


def _give_up(within_s: float, code: int, what: str) -> None:
    logger.critical("%s did not end within %g s (does the blob store answer?); the process ends", what, within_s)
    os._exit(code)
