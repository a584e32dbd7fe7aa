"""What is said of a media file that cannot be used."""


class MediaError(Exception):
    """A media file cannot be used, in one line for its owner. `reason` is the same without "the file" before it."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the file {reason}")
        self.reason = reason
