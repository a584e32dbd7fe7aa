"""The one error of the embedded broker."""


class BrokerError(Exception):
    """The broker cannot be had; the message is one line: what happened, to what, what to do. The program cannot go on."""
