"""The schema and the recipe of a dataset that was built."""

from typing import Any

from dist_rec.common.strict import check
from dist_rec.data.build.assemble import GROUPING_KEY, TIME
from dist_rec.data.build.config import BuildConfig
from dist_rec.data.build.fields import IdConfig, NumberConfig
from dist_rec.data.build.numbering import Numbers
from dist_rec.data.build.roles import CANDIDATES
from dist_rec.data.build.splits import MICROSECONDS, SPLITS, Times
from dist_rec.data.schema import Schema


def schema_of(config: BuildConfig, numbers: Numbers) -> Schema:
    """Raises ConfigError where a name of the build file cannot be one of a schema."""
    requests = config.requests
    tree: dict[str, Any] = {
        "name": config.name,
        "tables": {
            name: {"rows": size, "ids": config.tables[name].ids} if numbers.is_open(name) else size
            for name, size in numbers.sizes.items()
        },
        "request": {
            "grouping_key": GROUPING_KEY,
            "time": None if requests.visible_events else TIME,
            "numbers": _numbers(requests.context_numbers),
            "cyclic": requests.cyclic,
            "utc_offset": requests.utc_offset,
        },
        "context": _ids(requests.context),
        "sequences": [
            {
                "name": name,
                "ids": _ids(of.ids),
                "side": _side(numbers, config, name),
                "numbers": _numbers(of.numbers),
                "time": of.times,
                "once": config.histories == "once",
            }
            for name, of in config.sequences.items()
        ],
        "candidate": {
            "ids": _ids(requests.ids),
            "side": _side(numbers, config, CANDIDATES),
            "numbers": _numbers(requests.numbers),
            "labels": list(requests.labels),
            "visible_events": requests.visible_events,
            "given": requests.given,
            "delayed": {name: {"horizon": of.within} for name, of in requests.labels.items() if of.source is not None},
        },
        "attributes": _attributes(config),
        "feature_groups": config.feature_groups,
    }
    return check(Schema, tree, f"the dataset {config.name}")


def recipe_of(config: BuildConfig, path: str, times: Times, last_event: int) -> dict[str, Any]:
    """A recipe to start from: LONGER, and of labels that take time what was known when validation starts."""
    head: dict[str, Any] = {"hidden": [128]}
    data: dict[str, Any] = {"path": path, "batch_size": 64} | _folders(times, windows=config.split.by == "windows")
    if any(of.source is not None for of in config.requests.labels.values()):
        data["written_at"] = last_event // MICROSECONDS
        if times.valid is not None:
            data["observed_at"] = times.valid // MICROSECONDS
        if times.windows:  # each is trained on when the next one begins
            data["observed_at"] = [start // MICROSECONDS for start in times.windows[1:]]
            head["immature"] = "delayed_feedback_model"  # no label of a window is read again when it is final
    tokens: dict[str, Any] = {"width": 32, "hidden": 64}
    longer: dict[str, Any] = {"merge": 1, "inner_trans": False, "k": 16, "heads": 4}
    if not config.requests.context:
        longer["globals"] = ["candidate"]
    if config.requests.visible_events:  # every event is a row of its own, and places are relative
        tokens["position"] = "none"
        longer |= {"k": 0, "rotary": True}
    return {
        "data": data,
        "model": {
            "name": "longer",
            "tokens": tokens,
            "longer": longer,
            "head": head,
        },
        "embedding": {"dim": 16, "lr": 0.1},
        "optim": {"optimizer": "muon", "lr": 0.003, "warmup_steps": 20},
        "run": {"name": config.name},
    }


def _folders(times: Times, *, windows: bool) -> dict[str, list[str]]:
    """The settings of `data` that name the splits. Folders that are all trained on are for cross-validation."""
    if windows:
        return {"windows": list(times.folders)}
    if times.folders == SPLITS and times.fitted == SPLITS[:1]:
        return {}
    others = [name for name in times.folders if name not in times.fitted]
    if not others and len(times.folders) > 2:
        return {"folds": list(times.folders)}
    return {"train": list(times.fitted), "valid": others[:1], "test": others[1:]}


def _numbers(fields: dict[str, NumberConfig]) -> dict[str, Any]:
    return {name: of.model_dump(exclude={"column"}, exclude_defaults=True) for name, of in fields.items()}


def _attributes(config: BuildConfig) -> dict[str, dict[str, Any]]:
    """By table."""
    found: dict[str, dict[str, Any]] = {}
    for of in config.attributes.values():
        here: dict[str, Any] = {name: {"number": number} for name, number in _numbers(of.numbers).items()}
        here |= {name: {"list": field.table, "pool": field.pool} for name, field in of.lists.items()}
        here |= {name: {"vector": field.dim} for name, field in of.vectors.items()}
        if here:
            found[of.of] = found.get(of.of, {}) | here
    return found


def _ids(fields: dict[str, IdConfig]) -> list[dict[str, str]]:
    return [{"name": name, "table": of.table or name} for name, of in fields.items()]


def _side(numbers: Numbers, config: BuildConfig, owner: str) -> dict[str, int]:
    """With one more value where they were fitted, for all others."""
    of = config.requests.side if owner == CANDIDATES else config.sequences[owner].side
    return {name: len(numbers.values[owner, name]) + (side.values is None) for name, side in of.items()}
