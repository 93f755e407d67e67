"""Errors that a user can act on: what is wrong, what is needed, what to do.

Everything raised on purpose for a user derives from `FovealError`; the command line
prints its message without a traceback. `ValueError` and `TypeError` stay for callers
of single functions.
"""

from collections.abc import Sequence

NAMES_SHOWN = 5
"""Listed in a message."""


class FovealError(Exception):
    """A problem that the user can mend; its message says how."""


class CaseError(FovealError):
    """A case cannot be read or used: files, grids, labels or intensities."""


class DatasetError(FovealError):
    """A data set's layout or table cannot be understood."""


class GeometryError(FovealError):
    """Arrays or grids that should coincide do not."""


class SettingsError(FovealError):
    """A settings or plan file, or a ``--set`` option, is wrong."""


class PluginError(FovealError):
    """A plugin file is wrong, missing or not the one that a run was made with."""


class SamplingError(FovealError):
    """No patch can be drawn as asked."""


class RunError(FovealError):
    """A run directory is missing, taken, damaged or of another kind."""


class EvaluationError(FovealError):
    """Measured values are missing, damaged or cannot be put together or compared."""


class TrainingError(FovealError):
    """Training cannot go on, for example because the loss is not finite."""


def listed(names: Sequence[str]) -> str:
    """The first few names and how many more there are, for a message; or nothing."""
    shown = ", ".join(names[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
