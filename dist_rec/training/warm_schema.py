"""The schema of a run that starts from the weights of another one.

A weight belongs to names of fields, tables and labels, but a tensor only knows places. So names that the checkpoint has
come first and in its order, new ones after them; and what the weights mean must be the same."""

from pathlib import Path
from typing import Any

from dist_rec.common.strict import ConfigError, check
from dist_rec.config import Config
from dist_rec.data.schema import Schema
from dist_rec.run_config import InitConfig
from dist_rec.training.made_with import NUMBER, MadeWith, differences, facts, model_settings
from dist_rec.training.weight_names import TABLES, idle, named


def warm_schema(saved: MadeWith, schema: Schema, config: Config, init: InitConfig) -> Schema:
    """The schema to build the model with. Names that the checkpoint does not have are new and need nothing; where
    numbers of both have the same encoding, what a fit found is the checkpoint's, and so is the row HIDDEN.

    Raises ConfigError with everything that the checkpoint's weights mean and that is not so now, unless a pattern of
    `init.differ` names it. Tables are compared by `table_rows`."""
    both = saved.schema_.candidate.feedback is not None and schema.candidate.feedback is not None
    was, now = (of if both else of.with_feedback(None) for of in (saved.schema_, schema))
    meant, means = ({**facts(of, both), **model_settings(by, False)} for of, by in ((was, saved.recipe), (now, config)))
    # Labels that take time are no weights; and of what was not there nothing can have changed its meaning.
    meant = {
        name: of
        for name, of in meant.items()
        if of is not None and not name.startswith(TABLES) and not name.endswith(", final")
    }
    means = {name: of for name, of in means.items() if name in meant}
    differing = {name: differences({name: of}, means)[0] for name, of in meant.items() if means.get(name) != of}
    unsaid = [f"\n  {line}" for name, line in differing.items() if not named(name, init.differ)]
    problems = [f"\n  init.differ: nothing that differs fits {pattern}" for pattern in idle(init.differ, differing)]
    if unsaid or problems:
        raise ConfigError(
            f"{init.checkpoint}: its weights mean something else than those of this schema and recipe; expected the "
            "same, or init.differ with the names of what may differ (and init.leave_out with the weights that it "
            f"concerns):{''.join(unsaid + problems)}"
        )
    tree = _in_order(saved.schema_.model_dump(mode="json"), schema.model_dump(mode="json"))
    tree["hidden"] = saved.schema_.hidden or schema.hidden
    return check(Schema, tree, str(Path(init.checkpoint)))


def _in_order(saved: Any, now: Any) -> Any:
    """The tree `now`, with names in the order that they have in `saved`."""
    if isinstance(saved, dict) and isinstance(now, dict):
        if "fitted" in now and all(saved.get(name) == now.get(name) for name in NUMBER):
            return saved
        return {name: _in_order(saved.get(name), now[name]) for name in _order(saved, now)}
    if not (isinstance(saved, list) and isinstance(now, list)):
        return now
    if all(isinstance(of, str) for of in (*saved, *now)):
        return _order(saved, now)
    if all(isinstance(of, dict) and "name" in of for of in (*saved, *now)):
        before, after = ({of["name"]: of for of in either} for either in (saved, now))
        return [_in_order(before.get(name), after[name]) for name in _order(before, after)]
    return now


def _order(saved: Any, now: Any) -> list[str]:
    """Names of `now`: those of `saved` first, in their order there."""
    return [name for name in saved if name in now] + [name for name in now if name not in saved]
