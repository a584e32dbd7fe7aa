"""What a process that runs on says on stderr."""

import logging
import sys

from pipeline.settings import Settings

# Faust builds DEBUG records for every message unless told not to; stamina's retries are said by those who retry.
_LEVELS_OF_OTHERS = {
    "faust": logging.WARNING,
    "mode": logging.WARNING,
    "mode.timers": logging.ERROR,  # a commit that takes long under load is no news
    "aiokafka": logging.CRITICAL,  # what matters of it is said by those who wait, retry or watch
    "asyncio": logging.WARNING,
    "stamina": logging.ERROR,
    "uvicorn": logging.WARNING,
}


def log_to_stderr(settings: Settings) -> None:
    """One line for each event, with its time, from the level of the settings on."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name in _LEVELS_OF_OTHERS:
        logging.getLogger(name).setLevel(max(_LEVELS_OF_OTHERS[name], logging.getLevelName(settings.log_level)))
