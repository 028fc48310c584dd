"""A dataset folder from a build file: reads, splits, numbers, sorts and writes. The page to read first."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dist_rec.common.made import real
from dist_rec.common.strict import check
from dist_rec.common.yaml_file import read_yaml
from dist_rec.data.attribute_store import write_attributes
from dist_rec.data.build.assemble import Assembly, Counts
from dist_rec.data.build.attribute_arrays import attribute_arrays
from dist_rec.data.build.config import BuildConfig
from dist_rec.data.build.database import Database, literal, quoted
from dist_rec.data.build.described import recipe_of, schema_of
from dist_rec.data.build.labels import add_later_labels
from dist_rec.data.build.numbering import Numbers, ids_of
from dist_rec.data.build.population import populations
from dist_rec.data.build.report import BuildReport
from dist_rec.data.build.roles import CANDIDATES, PLACED, USER, USERS, attributes, events, every_role, later
from dist_rec.data.build.rows import Rows, drop_duplicates, read_raw, read_values, text_tables
from dist_rec.data.build.sources import add_sources, files_of
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
    _check_place(config, out, folder)
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
            numbers = Numbers(database, config, text, times.fitted)
            stored = dataset / STORE_FOLDER if config.histories == "once" else place / STORE_FOLDER
            stores = _stores(database, config, numbers, stored, bars, report)
            schema = schema_of(config, numbers)
            write_schema(dataset, schema)
            sampled_from, report.sampling = populations(database, config, numbers, times)
            trained = times.folders if config.split.by == "windows" else times.fitted
            assembly = Assembly(database, config, numbers, stores, sampled_from, USER not in text, trained)
            for split in times.folders:
                counts = report.splits.setdefault(split, Counts())
                counted = f"SELECT count(*), count(DISTINCT request) FROM {PLACED} WHERE split = '{split}'"
                total, requests = database.one(counted, split)
                bars.update(f"writing {split}", total)
                # Ranks and reader workers share row groups, so small data need small ones.
                rows = min(max(requests // GROUPS_AT_LEAST, 16), ROWS_PER_GROUP)
                write_split(dataset / split, assembly.tables(split, counts, bars.done), schema, rows_per_group=rows)
            for table, of in attribute_arrays(database, config, numbers).items():
                write_attributes(dataset, schema, table, of.arrays, of.ids)
            if any(not of.is_fitted for of in named_numbers(schema).values()):
                bars.update("fitting numbers")
                fit_dataset(dataset, times.fitted)
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


def _check_place(config: BuildConfig, out: Path, folder: Path) -> None:
    """Raises DataError for a place that holds a source: it would be replaced, with `force`, too."""
    for name, of in config.sources.items():
        for path in files_of(of.files, folder, f"sources.{name}") if of.files else []:
            if real(out) in real(path).parents:
                raise DataError(
                    f"{out}: expected another place than the sources, which would be deleted, got one that holds {path}"
                )


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
    # Labels are known up to the end of the shortest of their logs.
    of_labels = [name for name, of in config.requests.labels.items() if of.source is not None]
    known_until = min((_last(database, quoted(later(name))) for name in of_labels), default=times.last)
    recipe = recipe_of(config, str(out), times, known_until)
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
