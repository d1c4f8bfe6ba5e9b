"""Errors the user can fix: what was found, what was expected, what to do."""


class UserError(ValueError):
    """Printed without a traceback, exit status 1; any other exception is a bug and shows its traceback."""


class ConfigError(UserError):
    """An invalid config."""


class InputError(UserError):
    """Input files that are missing, corrupted or unexpected."""


class RunError(UserError):
    """A run folder that can't be read, written or resumed."""


class LostError(RunError):
    """A process or node that ended unexpectedly."""


class TrainingError(UserError):
    """A training run that can't continue."""


class KaggleError(UserError):
    """The Kaggle API rejected the request or timed out."""
