"""What ends a run through nobody's bug."""


class RunError(RuntimeError):
    """A run cannot go on; the message says why and what to do. Unlike a wrong recipe, one rank may meet it alone."""
