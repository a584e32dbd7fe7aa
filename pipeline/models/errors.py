"""What can go wrong with models. Both stop the program with one line; only the second is worth another try."""


class ModelError(Exception):
    """A model cannot be had or used; the message says what happened, to which model, and what to do."""


class ModelUnreachableError(ModelError):
    """A package could not be downloaded: trying again later may help."""
