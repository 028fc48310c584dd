"""Where a run is in its data, in numbers that do not depend on who reads them.

The order of the data is planned once, for some ranks and reader workers, and belongs to the run: any other number of
them goes on with the same requests in the same steps (`reader.py`)."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Leg(BaseModel):
    """Steps of a run with one batch size: those before step `end` that no earlier leg has."""

    model_config = ConfigDict(frozen=True)

    batch_size: int | None = Field(ge=1)  # None: batches by events
    batch_events: int | None = Field(ge=1)
    end: int = Field(ge=0)


class DataPosition(BaseModel):
    """- `step`: batches of the run that every rank has trained on
    - `ranks`, `workers`: what the order of the data was planned for
    - `legs`: of earlier batch sizes, in order
    - `settings`: of the reader, which the order depends on, too
    """

    model_config = ConfigDict(frozen=True)

    step: int = Field(ge=0)
    ranks: int = Field(ge=1)
    workers: int = Field(ge=1)
    legs: tuple[Leg, ...] = ()
    settings: dict[str, Any]

    @field_validator("settings")
    @classmethod
    def _says_the_batches(cls, settings: dict[str, Any]) -> dict[str, Any]:
        if missing := {"batch_size", "batch_events"} - settings.keys():
            raise ValueError(f"it does not say {' and '.join(sorted(missing))}")
        return settings

    def with_batches(self, batch_size: int | None, batch_events: int | None) -> "DataPosition":
        """The same, going on with batches of this size."""
        was = Leg(batch_size=self.settings["batch_size"], batch_events=self.settings["batch_events"], end=self.step)
        if (was.batch_size, was.batch_events) == (batch_size, batch_events):
            return self
        settings = self.settings | {"batch_size": batch_size, "batch_events": batch_events}
        return self.model_copy(update={"legs": (*self.legs, was), "settings": settings})
