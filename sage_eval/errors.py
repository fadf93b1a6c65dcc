"""The project's errors. Each message is one line that names what is wrong and says what to do.

`sage-eval` prints them without a traceback; the exit code is the class's `exit_code`.
"""


class SageEvalError(Exception):
    """Base class: anything this project refuses to go on with."""

    exit_code = 2


class UsageError(SageEvalError, ValueError):
    """A setting, flag or argument that cannot work, whatever the machine."""


class PrerequisiteError(SageEvalError):
    """Something the machine lacks: a package, a model, a data file, a free port."""


class DataError(SageEvalError):
    """A data folder, run folder or checkpoint that is incomplete or not what it claims to be."""


class EngineError(SageEvalError):
    """The engine died, refused a request, or returned logprobs that cannot be used."""

    exit_code = 1


class CoverageError(SageEvalError):
    """The attention backend did not compute what the run asked it to compute."""

    exit_code = 1


class SettingWarning(UserWarning):
    """A setting that is ignored. The command line prints these and no library's warnings."""
