"""The export that a server serves."""

import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_rec.common.strict import ConfigError
from dist_rec.data.columns import CANDIDATE, columns_of
from dist_rec.serve.delta import apply_delta
from dist_rec.serve.folder import Export
from dist_rec.serve.load import Loaded, load_export
from dist_rec.serve.reference import read_reference
from dist_rec.serve.request_rows import Limits
from dist_rec.serve.server.settings import Settings
from dist_rec.serve.service import Service
from dist_rec.serve.user_states import UserStates

_logger = logging.getLogger(__name__)
EXAMPLE_EVENTS = 3


@dataclass(frozen=True)
class Running:
    """An export that has given its reference's scores.

    - `base`: the whole export that it is, or that it has changed
    - `example`: a request of its reference, with a short history
    """

    service: Service
    export: Export
    base: Loaded
    example: dict[str, Any]

    @property
    def version(self) -> str:
        return self.export.version

    @classmethod
    def load(cls, folder: Path, before: "Running | None", states: UserStates, settings: Settings) -> "Running":
        """A whole export, or what has changed since the one that `before` has.

        Raises ConfigError if the folder is neither, is damaged, or scores differently here."""
        # Once: a link that is set anew meanwhile would mix two exports.
        folder = Path(os.path.realpath(folder))
        if before is not None and (delta := Export.read(folder)).base is not None:
            base = before.base
            _check_later(delta, before, folder)
            loaded = apply_delta(base, folder, precision=settings.precision)
        else:
            base = loaded = load_export(folder, precision=settings.precision)
        limits = Limits(settings.max_candidates, settings.max_events)
        service = Service(loaded.engine, states, limits, stale_seconds=settings.stale_seconds)
        requests = read_reference(folder).requests
        example = _short(requests[0], set(service.reader.events)) if requests else {}
        return cls(service, loaded.export, base, example)

    def described(self) -> dict[str, Any]:
        """For clients: what a request must have, and what they get."""
        schema, reader = self.service.engine.schema, self.service.reader
        return {
            "version": self.version,
            "run": self.export.run,
            "step": self.export.step,
            "made": self.export.time.isoformat(),
            "tasks": list(schema.candidate.labels),
            "user": schema.request.grouping_key,
            "time": schema.request.time,
            "max_length": self.service.engine.max_length,
            "max_candidates": reader.limits.candidates,
            "max_events": reader.limits.events,
            "columns": [
                {
                    "name": column.name,
                    "part": _part(column.owner, column.name in reader.events),
                    "type": str(column.arrow_type),
                    "values": column.size if column.kind == "id" else None,
                }
                for column in columns_of(schema)
            ],
        }


class Live:
    """The running export, and how another takes its place: loaded and verified beside it, then set at once. Whoever has
    taken `running` goes on with that one."""

    def __init__(self, states: UserStates, settings: Settings) -> None:
        self.running: Running | None = None
        self.path: Path | None = None
        self._states, self._settings = states, settings
        self._one = threading.Lock()

    def load(self, path: Path) -> Running:
        """Raises ConfigError; then the one before goes on."""
        with self._one:
            running = Running.load(path, self.running, self._states, self._settings)
            self.running, self.path = running, path
            _logger.info("serving model %s from %s", running.version, path)
            return running


def _check_later(delta: Export, before: Running, folder: Path) -> None:
    """Raises ConfigError for a delta that would take a run back, such as one that came late."""
    now = before.export
    if (delta.base, delta.run) == (before.base.export.version, now.run) and delta.step < now.step:
        raise ConfigError(
            f"{folder}: expected changes up to step {now.step}, which is served, or a later one, got up to step "
            f"{delta.step}; to go back, load the whole export of version {delta.base} first"
        )


def _short(request: dict[str, Any], events: set[str]) -> dict[str, Any]:
    return {name: value[-EXAMPLE_EVENTS:] if name in events else value for name, value in request.items()}


def _part(owner: str, events: bool) -> str:
    return "history" if events else "candidates" if owner == CANDIDATE else "request"
