"""Labels of candidates that are events which came later."""

from dist_rec.data.build.config import BuildConfig
from dist_rec.data.build.database import Database, quoted
from dist_rec.data.build.roles import PLACED, later, matched
from dist_rec.data.build.splits import MICROSECONDS

LABELLED = '"all labelled"'


def add_later_labels(database: Database, config: BuildConfig) -> None:
    """Adds `label <name>` and `delay <name>`, seconds, to the table PLACED: of the first event of the same user, and
    of the same matched columns, from the candidate's own time on."""
    for name, of in config.requests.labels.items():
        if of.source is None:
            continue
        assert of.within is not None, "checked with the build file"
        what = f"requests.labels.{name}"
        columns = [quoted(matched(name, place)) for place in range(len(of.match))]
        on = " AND ".join(["c.user = l.user", *(f"c.{column} = l.{column}" for column in columns), "l.time >= c.time"])
        came = f"came <= t + {of.within * MICROSECONDS}"
        # In whole seconds a label is known no sooner than it was, and counts no longer than `within`.
        delay = f"least(ceil(came / {MICROSECONDS}) - floor(t / {MICROSECONDS}), {of.within})"
        label, waited = quoted(f"label {name}"), quoted(f"delay {name}")
        database.run(
            f"CREATE TABLE {LABELLED} AS SELECT * EXCLUDE (came), coalesce({came}, false)::UTINYINT AS {label}, "
            f"(CASE WHEN {came} THEN {delay} ELSE 0 END)::BIGINT AS {waited} "
            f"FROM (SELECT c.*, l.time AS came FROM {PLACED} c ASOF LEFT JOIN {quoted(later(name))} l ON {on})",
            what,
        )
        database.run(f"DROP TABLE {PLACED}", what)
        database.run(f"ALTER TABLE {LABELLED} RENAME TO {PLACED}", what)
