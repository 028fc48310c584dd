"""Errors that end a run without a bug."""


class RunError(RuntimeError):
    """A run cannot continue; the message has the reason and the remedy. It may occur on one rank alone."""


class Unmet:
    """Beside another error: the ranks have not met, which may go well the next time."""
