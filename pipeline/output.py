"""Faults of what a command writes to: a pipe that is closed, a full disk. Nothing else is at fault then."""

import errno

_OF_OUTPUT = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT}


def is_of_output(error: BaseException) -> bool:
    """Whether writing to stdout raised this: a file that is opened has a name, and no socket's disk is full."""
    return isinstance(error, OSError) and error.errno in _OF_OUTPUT and error.filename is None
