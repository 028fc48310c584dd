"""What a run is beside its numbers: `run.json` in its folder, written when it starts and when it ends."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from dist_rec.common.json_file import read_json
from dist_rec.common.strict import ConfigError
from dist_rec.training.interrupt import Interrupted
from dist_rec.training.listener import Ending, Listeners

ABOUT = "run.json"
TOLD = 500  # characters of an error that are kept


class About(BaseModel):
    """- `state`: of a process that was killed it stays `running`
    - `started` and `ended`: times with their zone; of a run that was resumed those of its last process
    - `told`: of an interrupted or failed run what it said at the end
    - `ranks`; `commit`, `software`, `hardware` and `command` as in `provenance`
    """

    model_config = ConfigDict(frozen=True)

    state: Literal["running"] | Ending
    started: datetime
    ended: datetime | None = None
    told: str = ""
    ranks: int
    commit: str
    software: str
    hardware: str
    command: str

    @classmethod
    def now(cls, ranks: int, origin: Mapping[str, str]) -> "About":
        """`origin` by `provenance`."""
        return cls(
            state="running",
            started=_now(),
            ranks=ranks,
            commit=origin["commit"],
            software=origin["software"],
            hardware=origin["hardware"],
            command=origin["command"],
        )

    @classmethod
    def read(cls, folder: Path) -> "About | None":
        """None of a run that has no such file. Raises ConfigError for a file that is damaged."""
        return read_json(folder / ABOUT, cls, ConfigError)

    def write(self, folder: Path) -> None:
        partial = folder / f".{ABOUT}"
        partial.write_text(self.model_dump_json(indent=1) + "\n")
        os.replace(partial, folder / ABOUT)


@contextmanager
def recorded(about: About, folder: Path, listeners: Listeners) -> Iterator[None]:
    """Writes what is known of a run before the block and after it, and tells its listeners how it ended. Only on the
    rank that writes."""
    about.write(folder)

    def end(ending: Ending, told: str = "") -> None:
        listeners.end(ending)
        about.model_copy(update={"state": ending, "ended": _now(), "told": told[:TOLD]}).write(folder)

    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, Interrupted | KeyboardInterrupt)
        told = str(error) if isinstance(error, Interrupted) else f"{type(error).__name__}: {error}"
        with suppress(OSError):  # a full disk may be what ended the run, and that is what is to be said
            end("interrupted" if interrupted else "failed", " ".join(told.split()))
        raise
    end("finished")


def _now() -> datetime:
    return datetime.now().astimezone().replace(microsecond=0)
