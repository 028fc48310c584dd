"""What a checkpoint was made with: `made_with.json` beside its tensors, compared by name before anything is loaded.

Weights belong to names of fields, tables and tasks, but a tensor only knows places: swap two labels in a schema, and
every shape still fits. So the names are kept with the weights. Where only their order differs, the model is built in
the order of the checkpoint; any other difference is an error that says what it is."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dist_rec.common.open_ids import AdmissionConfig, EvictionConfig
from dist_rec.common.provenance import versions
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config, TableConfig
from dist_rec.data.attributes import every_attribute
from dist_rec.data.id_lists import id_lists
from dist_rec.data.kinds import named_numbers
from dist_rec.data.older_words import recipe_with_todays_words, with_todays_words
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import table_dims

FILE = "made_with.json"
OPTIMIZER_STATE = 2  # 1: of before 0.1.0, with a loss scale and other names
# Settings of a model that mean nothing to its weights.
FREE = ("recompute", "dropout", "task_weights")
NUMBER = {"scale", "encoding", "bounds"}
# Settings of a resumed run that must be the same, beside the settings of the model.
RESUMED = ("optimizer", "correction", "compress", "accumulation_steps")


class PurgeRecord(BaseModel):
    """A purge of rows (purge.py), without the ids themselves.

    - `table`, and the number of distinct `ids`
    - `sha256` of the distinct ids in increasing order, as text with one id per line
    - `seed` of the fresh rows, `step` of the run, `time` in UTC, `versions` of packages
    """

    model_config = ConfigDict(frozen=True)

    table: str
    ids: int
    sha256: str
    seed: int
    step: int
    time: str
    versions: dict[str, str]


class StartedFrom(BaseModel):
    """The checkpoint whose weights a run started with (warm_start.py), as it was then.

    - `checkpoint`: its folder, `step` of its run, `sha256` of its manifest
    """

    model_config = ConfigDict(frozen=True)

    checkpoint: str
    step: int
    sha256: str


class MadeWith(BaseModel):
    """- `schema_` as the run used it, without fields that it left out; `recipe` resolved
    - `versions` of packages, `ranks` and `step` of the run when it was saved
    - `optimizer_state`: the form of the optimizer's state
    - `purged`: every purge of rows so far, oldest first
    - `started_from`: None for a run that started without weights
    """

    model_config = ConfigDict(frozen=True)

    schema_: Schema
    recipe: Config
    versions: dict[str, str]
    ranks: int
    step: int
    optimizer_state: int = 1
    purged: tuple[PurgeRecord, ...] = ()
    started_from: StartedFrom | None = None

    @classmethod
    def now(
        cls,
        schema: Schema,
        recipe: Config,
        ranks: int,
        step: int,
        purged: tuple[PurgeRecord, ...] = (),
        started_from: StartedFrom | None = None,
    ) -> "MadeWith":
        return cls(
            schema_=schema,
            recipe=recipe,
            versions=versions(),
            ranks=ranks,
            step=step,
            optimizer_state=OPTIMIZER_STATE,
            purged=purged,
            started_from=started_from,
        )

    @classmethod
    def read(cls, checkpoint: Path) -> "MadeWith":
        """Raises ConfigError if the folder is no checkpoint or does not say what it was made with."""
        path = checkpoint / FILE
        if not path.is_file():
            raise ConfigError(
                f"{checkpoint}: not a checkpoint, or an incomplete one: it has no {FILE}; expected a folder made by a "
                "run, such as runs/quickstart/checkpoints/last"
            )
        try:
            tree = json.loads(path.read_bytes())
            schema = with_todays_words(tree["schema_"], str(path))
            return cls.model_validate({**tree, "schema_": schema, "recipe": recipe_with_todays_words(tree["recipe"])})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            said = f"{type(error).__name__}: {error}"
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                place = ".".join(map(str, first["loc"])) or "the file"
                said = f"{place}: {first['msg']} ({error.error_count()} problems)"
            raise ConfigError(f"{path}: damaged, or of another version of dist_rec: {said}") from None

    def write(self, checkpoint: Path) -> None:
        (checkpoint / FILE).write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n")

    def schema_for(self, schema: Schema, recipe: Config, checkpoint: Path, *, resumed: bool = False) -> Schema:
        """The schema to build the model with, so that the checkpoint's weights get to the names that they belong to:
        fields, tables and tasks in the checkpoint's order, columns as they are now. Feedback is training's alone: a
        checkpoint is the same to evaluation with and without it.

        Raises ConfigError with every difference in names, sizes and meanings, of the recipe too; with `resumed` also of
        what a resumed run must share."""
        if resumed and self.optimizer_state != OPTIMIZER_STATE:
            raise ConfigError(
                f"{checkpoint}: saved by an earlier version of dist_rec, which kept the state of the optimizer in "
                "another form; its weights can be evaluated, but a run cannot resume from it"
            )
        saved, now = (of if resumed else of.with_feedback(None) for of in (self.schema_, schema))
        differing = differences(facts(saved, resumed), facts(now, resumed))
        # The other way round the weights have a row more than the recipe needs, and the saved schema says so.
        acting = recipe.data.filter is not None and (resumed or recipe.data.filter.evaluation == "filtered")
        if schema.hidden and not self.schema_.hidden and acting:
            differing.append("data.filter: tables without HIDDEN when it was saved, now the filter hides events")
        differing += differences(self._settings(self.recipe, resumed), self._settings(recipe, resumed))
        if differing:
            raise ConfigError(
                f"{checkpoint}: does not fit this schema and recipe; was it made by another recipe?\n  "
                + "\n  ".join(differing)
            )
        by_name, columns = {of.name: of for of in schema.sequences}, ("score", "reason")
        of_candidates = {name: getattr(schema.candidate, name) for name in ("oracle", *columns)}
        if not resumed:
            of_candidates |= self._unread(schema)
        update = {
            "name": schema.name,
            "request": schema.request.model_copy(
                update={name: getattr(self.schema_.request, name) for name in ("numbers", "lists")}
            ),
            "candidate": self.schema_.candidate.model_copy(update=of_candidates),
            "sequences": [
                of.model_copy(update={name: getattr(by_name[of.name], name) for name in (*columns, "once")})
                for of in self.schema_.sequences
            ],
        }
        return self.schema_.model_copy(update=update)

    def _unread(self, schema: Schema) -> dict[str, Any]:
        """What weights were trained with and evaluation does not need: feedback is not read, and delays of labels only
        where there are some."""
        feedback, delayed = self.schema_.candidate.feedback, self.schema_.candidate.delayed
        unread = {label: of.model_copy(update={"read": False}) for label, of in delayed.items()}
        return {
            "feedback": None if feedback is None else feedback.model_copy(update={"read": False}),
            "delayed": unread | schema.candidate.delayed,
        }

    def _settings(self, recipe: Config, resumed: bool) -> dict[str, Any]:
        found = model_settings(recipe, resumed)
        for table, dim in table_dims(self.schema_, recipe.embedding).items():
            found[f"embedding.tables.{table}.dim"] = dim
            found[f"embedding.tables.{table} is data_parallel"] = recipe.embedding.is_replicated(table)
        if resumed:
            for table, kind in self.schema_.open_ids.items():
                of = recipe.embedding.tables.get(table, TableConfig()) if kind == "dynamic" else TableConfig()
                found[f"embedding.tables.{table}.eviction"] = of.eviction or EvictionConfig()
                found[f"embedding.tables.{table}.admission"] = of.admission or AdmissionConfig()
            found |= flat("distill", recipe.model_dump(mode="json")["distill"])
            found |= {f"data.{name}": getattr(recipe.data, name) for name in ("observed_at", "written_at")}
            optim = recipe.optim.model_dump(mode="json")
            found |= {f"optim.{name}": optim[name] for name in RESUMED}
            found |= {f"data.{name}": getattr(recipe.data, name) for name in ("train", "valid")}
            found |= flat("data.filter", recipe.data.model_dump(mode="json")["filter"])
            found["run.select_best"] = recipe.run.select_best
            found["embedding.optimizer"] = recipe.embedding.model_dump(mode="json")["optimizer"]
        return found


def model_settings(recipe: Config, resumed: bool) -> dict[str, Any]:
    """The settings of the model that weights depend on, by their dotted names."""
    found = flat("model", recipe.model.model_dump(mode="json"))
    if not resumed:  # other corrections of delay have no weights
        found["model.head.immature"] = found["model.head.immature"] == "delayed_feedback_model"
    return {key: value for key, value in found.items() if not set(key.split(".")) & set(FREE)}


def facts(schema: Schema, resumed: bool) -> dict[str, Any]:
    """What weights depend on, by name, in no order; with `resumed` also what training reads."""
    used = {name: size for name, size in schema.tables.items() if name in schema.layout.tables.values()}
    kinds = {name: f"{schema.open_ids[name]} ids" if name in schema.open_ids else "ids" for name in used}
    found: dict[str, Any] = {f"tables.{name}": f"{size} {kinds[name]}" for name, size in used.items()}
    owners = {"context": schema.context, "candidate": schema.candidate.ids}
    owners |= {f"sequence {sequence.name}": sequence.ids for sequence in schema.sequences}
    found |= {f"{owner}, field {f.name}": f"of table {f.table}" for owner, fields in owners.items() for f in fields}
    grams = {f"n-grams {of.sequence}.{of.field}": of.spec for of in schema.layout.ngrams.values()}
    found |= {name: spec.model_dump_json() for name, spec in grams.items()}
    side = {"candidate": schema.candidate.side} | {f"sequence {s.name}": s.side for s in schema.sequences}
    found |= {f"{owner}, field {name}": f"{size} values" for owner, of in side.items() for name, size in of.items()}
    found |= {f"list {owner}": f"{of.pool} of {of.table}" for owner, of in id_lists(schema).items()}
    # What a fit found is the checkpoint's own.
    numbers = {name: of.model_dump(mode="json", include=NUMBER) for name, of in named_numbers(schema).items()}
    found |= {f"number {name}": of for name, of in numbers.items()}
    found |= {
        f"attribute {table}.{name}": f"a vector of {of.vector}" if of.list is None else f"{of.pool} of {of.list}"
        for table, name, of in every_attribute(schema)
        if of.number is None
    }
    found |= {f"sequence {s.name}, times": s.time for s in schema.sequences}
    found["request.cyclic"] = schema.request.utc_offset if schema.request.cyclic else None
    given = schema.candidate.given
    found |= {
        f"label {name}": f"given {given[name]}" if name in given else "defined" for name in schema.candidate.labels
    }
    if resumed:
        feedback = schema.candidate.feedback
        found["candidate.feedback"] = None if feedback is None else feedback.model_dump(mode="json", exclude={"read"})
        found |= {f"label {name}, final": of.horizon for name, of in schema.candidate.delayed.items()}
    found["candidate.visible_events"] = schema.candidate.visible_events
    found |= {f"group {name}": sorted(fields) for name, fields in schema.feature_groups.items()}
    return found


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    nothing = "nothing of that name"
    return [
        f"{name}: {saved.get(name, nothing)} when it was saved, {now.get(name, nothing)} now"
        for name in dict.fromkeys([*saved, *now])
        if saved.get(name, nothing) != now.get(name, nothing)
    ]


def flat(above: str, tree: Any) -> dict[str, Any]:
    """The leaves of a tree of settings by their dotted names, below `above`."""
    if not isinstance(tree, dict) or not tree:
        return {above: tree}
    dotted = f"{above}." if above else ""
    return {key: value for name, below in tree.items() for key, value in flat(f"{dotted}{name}", below).items()}
