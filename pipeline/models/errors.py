"""What can go wrong with models. All stop the program with one line; only one is worth another try."""


class ModelError(Exception):
    """A model cannot be had or used; the message says what happened, to which model, and what to do."""


class ModelUnreachableError(ModelError):
    """A package could not be downloaded: trying again later may help."""


class ModelsManifestError(ModelError):
    """The manifest of the user's own models cannot be used."""


class UnknownModelError(ModelError):
    """No model has this name."""
