"""What hears the records of a run while it is made, such as the client of an experiment tracker."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from dist_rec.common.strict import Strict

Ending = Literal["finished", "interrupted", "failed"]
_log = logging.getLogger(__name__)


class Listener:
    """Base of listeners of one's own, made by `Name(options)`: rank 0 has one for each run. One is also made when a
    recipe is checked, so connect in `start` and not before.

    What a listener raises is said once and ends no run; it hears nothing more of that run."""

    Config: ClassVar[type[Strict]] = Strict

    def __init__(self, options: Strict) -> None:
        self.options = options

    def start(self, folder: Path, recipe: dict[str, Any]) -> None:
        """Before the first record: the folder of the run, and its resolved recipe as plain values."""

    def __call__(self, record: dict[str, Any]) -> None:
        """A line of `metrics.jsonl` when it is written: `event`, `step`, numbers, and `task` where it is of one. The
        training waits for it. A run that is resumed may tell steps again."""
        raise NotImplementedError

    def end(self, ending: Ending) -> None:
        """After the last record; not of a process that is killed."""


class Listeners:
    """The listeners of one run. Nothing that one raises comes out."""

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self._listening = list(listeners)

    def start(self, folder: Path, recipe: dict[str, Any]) -> None:
        self._each("start", lambda of: of.start(folder, recipe))

    def __call__(self, record: dict[str, Any]) -> None:
        self._each(f"{record['event']} of step {record['step']}", lambda of: of(dict(record)))

    def end(self, ending: Ending) -> None:
        self._each("end", lambda of: of.end(ending))

    def _each(self, what: str, tell: Callable[[Listener], None]) -> None:
        for of in list(self._listening):
            try:
                tell(of)
            except Exception as error:  # a tracker that is down must not end a run
                self._listening.remove(of)
                name, told = type(of).__name__, f"{type(error).__name__}: {error}"
                _log.warning("run.listeners: %s failed at %s and hears no more of this run: %s", name, what, told)
