"""Errors whose message is written for the user.

The command-line programs print the message of a :class:`UserError` and leave
with a non-zero status; a traceback would only hide the one line that helps.
Every message says what was expected, what was found and what to do.
"""


class UserError(Exception):
    """Base of the errors that a user, not a developer, can mend."""


class ConfigError(UserError, ValueError):
    """A config value that cannot work: unknown name, wrong size, wrong range."""


class ClassNamesError(ConfigError):
    """Class names that do not fit the model, the head or the text context."""


class DataError(UserError, ValueError):
    """Data that is absent, damaged or out of range; names the file."""


class WeightsNotFoundError(UserError, FileNotFoundError):
    """Weights that should be on disk and are not."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that is corrupt, foreign or unlike the model it is for."""


class InvalidLossError(UserError, FloatingPointError):
    """A loss became NaN or infinite during training."""
