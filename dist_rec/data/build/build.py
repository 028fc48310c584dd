"""A dataset folder from a build file: reads, splits, numbers, sorts and writes. The page to read first."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dist_rec.common.strict import check
from dist_rec.common.yaml_file import read_yaml
from dist_rec.data.attribute_store import write_attributes
from dist_rec.data.build.assemble import Assembly, Counts
from dist_rec.data.build.attribute_arrays import attribute_arrays
from dist_rec.data.build.config import BuildConfig
from dist_rec.data.build.database import Database, literal, quoted
from dist_rec.data.build.described import recipe_of, schema_of
from dist_rec.data.build.labels import add_later_labels
from dist_rec.data.build.negatives import Population
from dist_rec.data.build.numbering import Numbers, ids_of
from dist_rec.data.build.report import BuildReport
from dist_rec.data.build.roles import CANDIDATES, PLACED, USER, USERS, attributes, events, every_role
from dist_rec.data.build.rows import Rows, drop_duplicates, read_raw, read_values, text_tables
from dist_rec.data.build.sources import add_sources
from dist_rec.data.build.splits import Times, make_requests
from dist_rec.data.build.store import Sorted, write_store
from dist_rec.data.errors import DataError, writing
from dist_rec.data.event_store import STORE_FOLDER
from dist_rec.data.fit import fit_dataset
from dist_rec.data.kinds import named_numbers
from dist_rec.data.writer import ROWS_PER_GROUP, staged, write_schema, write_split

ABOUT = "_build"  # beside the splits; a name that readers pass over
RECIPE_FILE = "recipe.yaml"
GROUPS_AT_LEAST = 64


def load_build(path: Path) -> BuildConfig:
    """Raises ConfigError for a build file that is missing or wrong."""
    return check(BuildConfig, read_yaml(path, "no such file; expected a build file (docs/data.md)"), str(path))


def build_dataset(
    config: BuildConfig,
    out: Path,
    *,
    folder: Path = Path(),
    memory: str = "2GB",
    temporary: Path | None = None,
    threads: int | None = None,
    force: bool = False,
    progress: bool = False,
) -> BuildReport:
    """Writes the dataset folder `out`, with a recipe to start from and, under `_build`, the numbers of all ids.

    Args:
        folder: where the paths in `config` start.
        memory: the most that DuckDB holds; what does not fit goes to `temporary`, beside `out` by default.
        force: replace any folder at that place.

    Raises:
        ConfigError: names of the build file that no schema can have.
        DataError: sources, columns or rows that are not what was expected, with their place; nothing is written then.
    """
    report = BuildReport(config.name)
    # The place is checked before hours are spent: `staged` refuses here what it would refuse at the end.
    with staged(out, force=force) as dataset, _workplace(out, temporary) as place, _bars(progress) as bars:
        database = Database(place, memory, threads)
        try:
            text = _read(database, config, folder, report, bars)
            bars.update("splitting the requests")
            times = make_requests(database, config)
            report.times = times
            add_later_labels(database, config)
            _drop_without_requests(database, config, report)
            bars.update("numbering the ids")
            numbers = Numbers(database, config, text)
            stored = dataset / STORE_FOLDER if config.histories == "once" else place / STORE_FOLDER
            stores = _stores(database, config, numbers, stored, bars, report)
            schema = schema_of(config, numbers)
            write_schema(dataset, schema)
            assembly = Assembly(
                database, config, numbers, stores, _population(database, config, numbers, report), USER not in text
            )
            for split in times.folders:
                counts = report.splits.setdefault(split, Counts())
                total = database.one(f"SELECT count(*) FROM {PLACED} WHERE split = '{split}'", split)[0]
                bars.update(f"writing {split}", total)
                # Ranks and reader workers share row groups, so small data need small ones.
                rows = min(max(total // GROUPS_AT_LEAST, 16), ROWS_PER_GROUP)
                write_split(dataset / split, assembly.tables(split, counts, bars.done), schema, rows_per_group=rows)
            for table, arrays in attribute_arrays(database, config, numbers).items():
                write_attributes(dataset, schema, table, arrays)
            if any(not of.is_fitted for of in named_numbers(schema).values()):
                bars.update("fitting numbers")
                fit_dataset(dataset, times.folders[:1])
            _describe(database, config, numbers, dataset, out, times, report)
        finally:
            database.close()
    return report


def _read(database: Database, config: BuildConfig, folder: Path, report: BuildReport, bars: "_Bars") -> set[str]:
    """Makes the tables of all roles; returns the tables of ids that are text."""
    roles = every_role(config, add_sources(database, config.sources, folder))
    for rows in roles.values():
        bars.update(f"reading the {rows.name}")
        read_raw(database, rows)
    text = text_tables(database, roles.values())
    for rows in roles.values():
        bars.update(f"reading the {rows.name}")
        read_values(database, rows, text, drop=config.bad_rows == "drop")
        if config.duplicates == "drop" and (count := drop_duplicates(database, rows)):
            rows.dropped["equal to an earlier row"] = count
        report.read[rows.key] = rows.count + sum(rows.dropped.values())
        report.dropped |= {f"{rows.key}: {reason}": count for reason, count in rows.dropped.items()}
    for source in config.attributes:
        _check_keys(database, roles[attributes(source)], source)
    return text


def _check_keys(database: Database, rows: Rows, source: str) -> None:
    found = database.rows(
        f"SELECT key::VARCHAR, count(*) FROM {rows.table} GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 1", source
    )
    if found:
        raise DataError(
            f"attributes.{source}.key: expected every id in one row of source '{source}', got "
            f"{found[0][0]!r} in {found[0][1]}"
        )


def _drop_without_requests(database: Database, config: BuildConfig, report: BuildReport) -> None:
    for name in config.sequences:
        of = quoted(events(name))
        count = database.one(f"SELECT count(*) FROM {of} WHERE user NOT IN (SELECT user FROM {USERS})", name)[0]
        if count:
            report.dropped[f"sequences.{name}: of users without a request"] = count


def _stores(
    database: Database, config: BuildConfig, numbers: Numbers, stored: Path, bars: "_Bars", report: BuildReport
) -> dict[str, Sorted]:
    stores: dict[str, Sorted] = {}
    for owner in numbers.owners:
        if owner.name not in config.sequences:
            continue
        folder = stored / owner.name
        folder.mkdir(parents=True)
        total = database.one(f"SELECT count(*) FROM {owner.relation}", owner.name)[0]
        bars.update(f"sorting the events of {owner.name}", total)
        with writing(folder):
            exact = database.folder / f"times-{len(stores)}.npy"
            store = write_store(database, folder, exact, numbers, owner, config.sequences[owner.name], bars.done)
        stores[owner.name] = store
        report.unknown |= {f"{owner.name}.{field}": n / max(1, total) for field, n in store.unknown.items()}
    context, candidate, *_ = numbers.owners
    for owner in (context, candidate):
        counted = ", ".join(f"avg(({numbers.unknown(owner, name)})::INTEGER)" for name in owner.ids) or "0"
        shares = database.one(f"SELECT {counted} FROM {owner.relation} {numbers.joins(owner)}", owner.name)
        name = "candidate" if owner.name == CANDIDATES else owner.name
        report.unknown |= {f"{name}.{field}": share for field, share in zip(owner.ids, shares)}
    return stores


def _population(database: Database, config: BuildConfig, numbers: Numbers, report: BuildReport) -> Population | None:
    """Of sampled candidates: the items of the training split with the ids that they have as candidates."""
    negatives = config.requests.negatives
    if negatives is None:
        return None
    report.sampling = negatives.model_dump(exclude_none=True)
    if negatives.keep is not None:
        report.sampling["correction"] = "p / (p + (1 - p) / keep)"  # He et al., ADKDD 2014, section 6.3
        return None
    candidate = numbers.owners[1]
    first = next(iter(candidate.ids))
    table = candidate.ids[first].table or first
    known = f"{candidate.kind} {first}"
    counts = f"(SELECT {quoted(known)} AS value, count(*) AS c FROM {PLACED} o WHERE {candidate.known} GROUP BY 1)"
    columns = ", ".join(f"({numbers.id_of(candidate, name)})::BIGINT AS {quoted(name)}" for name in candidate.ids)
    every = f"{quoted(ids_of(table))} i LEFT JOIN {counts} k ON k.value = i.value"
    rows = f"(SELECT i.value AS {quoted(known)}, coalesce(k.c, 0) AS c FROM {every})"
    query = f"SELECT o.c, {columns} FROM {rows} o {numbers.joins(candidate)} ORDER BY {quoted(first)}"
    found = np.array(database.rows(query, "the items that can be sampled"), np.int64).reshape(
        -1, 1 + len(candidate.ids)
    )
    if not len(found):
        raise DataError("requests.negatives: expected items in the training split to sample from, got none")
    ids = dict(zip(candidate.ids, found[:, 1:].T, strict=True))
    report.sampling |= {"items": len(found)}
    if negatives.sample == "uniform":
        return Population(ids, None)
    report.sampling["probability"] = f"count of the item as a candidate of training over {int(found[:, 0].sum())}"
    return Population(ids, np.cumsum(found[:, 0]) / max(1, found[:, 0].sum()))


def _describe(
    database: Database,
    config: BuildConfig,
    numbers: Numbers,
    dataset: Path,
    out: Path,
    times: Times,
    report: BuildReport,
) -> None:
    """Writes the recipe, the report and the numbers of all ids."""
    about = dataset / ABOUT
    about.mkdir()
    report.tables = numbers.sizes
    report.values = {f"{owner}.{name}": values for (owner, name), values in numbers.values.items()}
    for reason, name in (
        ("cut", "events: older than the newest that are kept"),
        ("emptied", "requests: no candidate was kept"),
        ("not_sampled", "sampled candidates: no draw found one"),
    ):
        if count := sum(getattr(of, reason) for of in report.splits.values()):
            report.dropped[name] = count
    last = max([times.last, *(_last(database, quoted(events(name))) for name in config.sequences)])
    recipe = recipe_of(config, str(out), times, last)
    (dataset / RECIPE_FILE).write_text(yaml.safe_dump(recipe, sort_keys=False))
    (about / "report.json").write_text(json.dumps(report.tree(), indent=1) + "\n")
    for table in numbers.sizes:
        if numbers.is_mapped(table):
            path = literal(str(about / f"{table}.parquet"))
            query = f"SELECT * FROM {quoted(ids_of(table))} ORDER BY id"
            database.run(f"COPY ({query}) TO {path} (FORMAT parquet, COMPRESSION zstd)", f"writing the ids of {table}")


def _last(database: Database, table: str) -> int:
    return database.one(f"SELECT coalesce(max(time), {-(2**62)}) FROM {table}", "looking for the last event")[0]


@contextmanager
def _workplace(out: Path, temporary: Path | None) -> Iterator[Path]:
    """A folder for what does not fit into memory, which is gone at the end."""
    parent = temporary or out.absolute().parent
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=parent) as place:
            yield Path(place)


class _Bars:
    """One line of progress for the stage that goes on, or none."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.task = progress, None if progress is None else progress.add_task("reading", total=None)

    def update(self, stage: str, total: int | None = None) -> None:
        if self.progress is not None and self.task is not None:
            self.progress.reset(self.task, description=stage, total=total)

    def done(self, rows: int) -> None:
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=rows)


@contextmanager
def _bars(shown: bool) -> Iterator[_Bars]:
    if not shown:
        yield _Bars(None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        yield _Bars(progress)
