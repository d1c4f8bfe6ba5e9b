"""Faults that the person at the keyboard can mend: what was found, what was expected, what to do."""


class UserError(ValueError):
    """The command line prints the text and ends with status 1; anything else is our own fault and shows a traceback."""


class ConfigError(UserError):
    """A recipe that can't be run."""


class InputError(UserError):
    """Files from outside that can't be used."""


class RunError(UserError):
    """A run's folder that can't be gone on with."""


class TrainingError(UserError):
    """A training that can't go on."""


class KaggleError(UserError):
    """Kaggle's service says no, or says nothing."""
