"""What sampled candidates are taken from, in every split.

An item that training does not know has the number of all others, as a candidate of its own has: sampled from known
items alone, that number would tell that a candidate is not sampled."""

from typing import Any

import numpy as np

from dist_rec.data.build.config import BuildConfig
from dist_rec.data.build.database import Database, quoted
from dist_rec.data.build.negatives import Population
from dist_rec.data.build.numbering import Numbers
from dist_rec.data.build.roles import PLACED
from dist_rec.data.build.splits import Times
from dist_rec.data.errors import DataError

WHAT = "the items to sample"
ROWS_AT_ONCE = 100_000


def item_key(value: str) -> str:
    """63 bits of an item as it was read."""
    return f"(md5_number_lower({value}::VARCHAR) >> 1)::BIGINT"


def populations(
    database: Database, config: BuildConfig, numbers: Numbers, times: Times
) -> tuple[dict[str, Population], dict[str, Any]]:
    """By split, and what the report says of it; nothing without negatives. A split samples the items that occur as
    candidates or in histories until its last request."""
    negatives = config.requests.negatives
    if negatives is None:
        return {}, {}
    report: dict[str, Any] = negatives.model_dump(exclude_none=True)
    if negatives.keep is not None:
        # He et al., Practical lessons from predicting clicks, ADKDD 2014, section 6.3
        report["correction"] = "p / (p + (1 - p) / keep)"
        return {}, report
    found = {split: _until_end_of(database, numbers, split, negatives.sample) for split in times.folders}
    report["items"] = {split: len(of) for split, of in found.items()}
    if negatives.sample == "popularity":
        report["probability"] = "count of the item as a candidate until the end of the split, over all of them"
    return found, report


def _until_end_of(database: Database, numbers: Numbers, split: str, how: str) -> Population:
    candidate = numbers.owners[1]
    first = next(iter(candidate.ids))
    table, column = candidate.ids[first].table or first, quoted(f"{candidate.kind} {first}")
    end = database.one(f"SELECT max(t) FROM {PLACED} WHERE split = '{split}'", WHAT)[0]
    seen = [f"SELECT o.{column} AS value, count(*) AS c FROM {PLACED} o WHERE o.t <= {end} GROUP BY 1"]
    for owner in numbers.owners[2:]:
        for name, of in owner.ids.items():
            if (of.table or name) == table and numbers.config.attributes_of(of.column) is None:
                own = quoted(f"{owner.kind} {name}")
                seen.append(f"SELECT DISTINCT o.{own}, 0 FROM {owner.relation} WHERE o.time <= {end}")
    every = f"SELECT value, sum(c)::BIGINT AS c FROM ({' UNION ALL '.join(seen)}) WHERE value IS NOT NULL GROUP BY 1"
    columns = ", ".join(f"({numbers.id_of(candidate, name)})::BIGINT AS {quoted(name)}" for name in candidate.ids)
    rows = f"(SELECT value AS {column}, c FROM ({every})) o {numbers.joins(candidate)}"
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in (" count", " item", *candidate.ids)}
    query = f'SELECT o.c AS " count", {item_key(f"o.{column}")} AS " item", {columns} FROM {rows} ORDER BY o.{column}'
    for batch in database.stream(query, WHAT, ROWS_AT_ONCE):
        for name, parts in arrays.items():
            parts.append(batch.column(name).to_numpy())
    joined = {name: np.concatenate(parts) if parts else np.zeros(0, np.int64) for name, parts in arrays.items()}
    counts, items = joined.pop(" count"), joined.pop(" item")
    if not len(counts):
        raise DataError(f"requests.negatives: expected items to sample from in {split}, got none")
    return Population(items, joined, None if how == "uniform" else np.cumsum(counts) / max(1, counts.sum()))
