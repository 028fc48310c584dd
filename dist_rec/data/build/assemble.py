"""Requests as rows of a dataset, from candidates in the order of requests and from the stores of events.

Legend: B requests, C candidates of all of them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.data.build.config import BuildConfig, NegativesConfig
from dist_rec.data.build.database import Database, order_by, quoted
from dist_rec.data.build.negatives import Population, kept, sampled, uniform
from dist_rec.data.build.numbering import Numbers
from dist_rec.data.build.population import item_key
from dist_rec.data.build.roles import PLACED, USERS
from dist_rec.data.build.splits import MICROSECONDS
from dist_rec.data.build.store import Sorted, events_before
from dist_rec.data.columns import Ints, expand_ranges, list_column
from dist_rec.data.writer import in_parts

ROWS_AT_ONCE = 200_000
OF_CANDIDATES = (" id.", " side.", " number.", " label.", " delay.")
GROUPING_KEY, TIME = "user_key", "time"


@dataclass
class Counts:
    """Of one split."""

    requests: int = 0
    candidates: int = 0
    events: int = 0
    cut: int = 0  # events older than the newest `most`
    not_sampled: int = 0  # candidates that no draw found
    emptied: int = 0  # requests none of whose candidates was kept
    ones: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Assembly:
    """Makes the rows of splits. `populations`: of candidates that are sampled, by split;
    `trained`: the splits whose candidates are thinned."""

    database: Database
    config: BuildConfig
    numbers: Numbers
    stores: dict[str, Sorted]
    populations: Mapping[str, Population]
    integer_users: bool
    trained: tuple[str, ...]

    def tables(self, split: str, counts: Counts, told: Callable[[int], None]) -> Iterator[pa.Table]:
        """The requests of a split in order of time; counts them, and `told` hears how many candidates are done."""
        waiting: dict[str, NDArray] | None = None
        done = 0
        for batch in self.database.stream(self._query(split), f"reading the candidates of {split}", ROWS_AT_ONCE):
            found = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names}
            if waiting is not None:
                found = {name: np.concatenate([waiting[name], found[name]]) for name in found}
            # The last request may go on in the next batch.
            last = int(np.searchsorted(found[" request"], found[" request"][-1]))
            waiting = {name: column[last:] for name, column in found.items()}
            yield from self._requests({name: column[:last] for name, column in found.items()}, split, counts)
            done += batch.num_rows
            told(done)
        if waiting is not None:
            yield from self._requests(waiting, split, counts)

    def _query(self, split: str) -> str:
        context, candidate, *_ = self.numbers.owners
        key = "u.user" if self.integer_users else "u.user_row"
        columns = {"request": "o.request", "t": "o.t", "user": "u.user_row", "key": f"{key}::BIGINT"}
        if self.config.requests.visible_events:
            columns["moment"] = "o.time"
        pages = [f'o."page {place}"' for place in range(len(self.config.requests.page))]
        of_request = ", ".join(f"{name}::VARCHAR" for name in ("o.user", "o.t", *pages, "o.chunk"))
        columns["item"] = item_key(f"o.{quoted(f'id {next(iter(candidate.ids))}')}")
        columns["draw"] = f"(md5_number_lower(concat_ws(' ', {of_request})) >> 1)::BIGINT"
        columns |= {f"context.{name}": f"{self.numbers.id_of(context, name)}::BIGINT" for name in context.ids}
        columns |= {f"id.{name}": f"{self.numbers.id_of(candidate, name)}::BIGINT" for name in candidate.ids}
        columns |= {f"side.{name}": f"{self.numbers.side_of(candidate, name)}::BIGINT" for name in candidate.side}
        for name in self.config.requests.numbers:
            columns[f"number.{name}"] = f"coalesce(o.{quoted(f'number {name}')}, 'nan'::FLOAT)"
        for name in self.config.requests.context_numbers:
            columns[f"context.{name}"] = f"coalesce(o.{quoted(f'context number {name}')}, 'nan'::FLOAT)"
        for name, of in self.config.requests.labels.items():
            columns[f"label.{name}"] = f"o.{quoted(f'label {name}')}"
            if of.source is not None:
                columns[f"delay.{name}"] = f"o.{quoted(f'delay {name}')}"
        chosen = ", ".join(f"{sql} AS {quoted(f' {name}')}" for name, sql in columns.items())
        order = ("o.time, " if self.config.requests.visible_events else "") + order_by(len(self.config.requests.order))
        joins = f"{self.numbers.joins(context)} {self.numbers.joins(candidate)}"
        return (
            f"SELECT {chosen} FROM {PLACED} o JOIN {USERS} u ON o.user = u.user {joins} WHERE o.split = '{split}' "
            f"ORDER BY o.request, {order}"
        )

    def _requests(self, rows: dict[str, NDArray], split: str, counts: Counts) -> Iterator[pa.Table]:
        negatives = self.config.requests.negatives
        starts = np.flatnonzero(np.diff(rows[" request"], prepend=-1))
        lengths = np.diff(starts, append=len(rows[" request"]))
        first = {name: column[starts] for name, column in rows.items()}
        if negatives is not None and negatives.keep is not None and split in self.trained:
            place = np.arange(len(rows[" request"])) - np.repeat(starts, lengths)
            some = np.any([rows[f" label.{name}"] == 1 for name in self.config.requests.labels], axis=0)
            some |= kept(negatives.seed, rows[" draw"] + place, negatives.keep)
            lengths = np.bincount(np.repeat(np.arange(len(starts)), lengths), some, len(starts)).astype(np.int64)
            rows = {name: column[some] for name, column in rows.items()}
            counts.emptied += int((lengths == 0).sum())
            first = {name: column[lengths > 0] for name, column in first.items()}
            lengths = lengths[lengths > 0]
        if not len(lengths):
            return
        own = {name: column for name, column in rows.items() if name.startswith(OF_CANDIDATES)}
        if negatives is not None and negatives.count is not None:
            own[" item"] = rows[" item"]
            own, lengths = self._with_sampled(own, lengths, first[" draw"], split, negatives, counts)
        known: dict[str, Ints] = {}
        for name, of in self.config.sequences.items():
            moments = first[" t"] - of.delay * MICROSECONDS
            known[name] = events_before(self.stores[name], first[" user"], moments)
            if self.config.requests.visible_events:  # of a single sequence
                moments = rows[" moment"] - of.delay * MICROSECONDS
                own["visible.visible_events"] = events_before(self.stores[name], rows[" user"], moments)
        counts.requests += len(lengths)
        counts.candidates += int(lengths.sum())
        for name in self.config.requests.labels:
            counts.ones[name] = counts.ones.get(name, 0) + int(own[f" label.{name}"].sum())
        begins = np.cumsum(lengths) - lengths
        events = sum(np.minimum(n, self.config.sequences[name].most or n.max(initial=0)) for name, n in known.items())
        for part in in_parts(np.arange(len(lengths)), np.asarray(events)):
            yield self._table(part, first, own, begins, lengths, known, counts)

    def _table(
        self,
        part: Ints,
        first: dict[str, NDArray],
        own: dict[str, NDArray],
        begins: Ints,
        lengths: Ints,
        known: dict[str, Ints],
        counts: Counts,
    ) -> pa.Table:
        of_request = [*self.config.requests.context, *self.config.requests.context_numbers]
        columns: dict[str, NDArray | pa.Array] = {name: first[f" context.{name}"][part] for name in of_request}
        columns[GROUPING_KEY], columns[TIME] = first[" key"][part], first[" t"][part] // MICROSECONDS
        for name, of in self.config.sequences.items():
            store, before = self.stores[name], known[name][part]
            kept_ = before if of.most is None else np.minimum(before, of.most)
            counts.events += int(kept_.sum())
            counts.cut += int((before - kept_).sum())
            if self.config.histories == "once":
                columns[f"{name}.user"], columns[f"{name}.events"] = first[" user"][part], before
                continue
            _, place = expand_ranges(store.offsets[first[" user"][part]] + before - kept_, kept_)
            for field_, values in store.columns.items():
                columns[f"{name}.{field_}"] = list_column(kept_, values[place])
        _, place = expand_ranges(begins[part], lengths[part])
        for name, values in own.items():
            kind, _, field_ = name.strip().partition(".")
            column = f"candidate.{field_}.delay" if kind == "delay" else f"candidate.{field_}"
            columns[column] = list_column(lengths[part], values[place])
        return pa.table(columns)

    def _with_sampled(
        self,
        own: dict[str, NDArray],
        lengths: Ints,
        draws: Ints,
        split: str,
        negatives: NegativesConfig,
        counts: Counts,
    ) -> tuple[dict[str, NDArray], Ints]:
        """The candidates of each request and those sampled for it, mixed, so that their order tells nothing."""
        assert negatives.count is not None, "made with them"
        population = self.populations[split]
        items = own.pop(" item")
        place = sampled(population, negatives.count, negatives.seed, draws, items, lengths)
        found = place >= 0
        counts.not_sampled += int((~found).sum())
        row = np.concatenate([np.repeat(np.arange(len(lengths)), lengths), np.nonzero(found)[0]])
        order = np.argsort(row, kind="stable")
        within = np.arange(len(row)) - np.repeat(np.cumsum(np.bincount(row)) - np.bincount(row), np.bincount(row))
        order = order[np.lexsort((uniform(negatives.seed + 1, draws[row[order]] + within), row[order]))]
        drawn = place[found]
        joined = {}
        for name, values in own.items():
            kind, _, field_ = name.strip().partition(".")
            more = population.ids[field_][drawn] if kind == "id" else np.zeros(len(drawn), values.dtype)
            joined[name] = np.concatenate([values, more])[order]
        return joined, lengths + found.sum(1)
