"""How many n-grams share a row? Both hashes on words drawn by Zipf's law, beside what chance alone would give.

Legend: N events, V0 ids, V rows.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from dist_rec.common.ngram import NgramSpec
from dist_rec.kernels.ngram_ids import ngram_ids

IDS, EVENTS, EXPONENT = 8192, 400_000, 1.1
# Rows over ids, and rows that are added: near multiples, at divisors, and far from both.
SIZES = ((30.0, 0), (30.0, 1), (30.05, 0), (30.5, 0), (30.75, 0), (32.37, 0))
ORDERS = (2, 3, 4)


def words(seed: int, *, events: int = EVENTS, ids: int = IDS) -> NDArray[np.int64]:
    """(N,) ids, of which id i is drawn in proportion to 1 / (i + 1)^1.1."""
    weights = 1.0 / np.arange(1, ids + 1) ** EXPONENT
    return np.random.default_rng(seed).choice(ids, events, p=weights / weights.sum())


def by_chance(count: int, rows: int) -> float:
    """Share of `count` different things that are lost when each falls on one of `rows`."""
    return 1 - rows * -np.expm1(count * np.log1p(-1 / rows)) / count


def rows_of(ids: NDArray[np.int64], order: int, rows: list[int], *, base: int | None = None) -> NDArray[np.int64]:
    """(N, heads) of one order; with a `base` by the polynomial, whose sizes are not judged here."""
    spec = NgramSpec(orders=[order], heads=len(rows), rows=rows)
    heads = torch.tensor(spec.head_numbers())
    if base is not None:
        heads[:, 4:] = torch.tensor([[pow(base, j, of) for j in range(order)] for of in rows])
    offsets = torch.tensor([0, len(ids)])
    return ngram_ids(torch.from_numpy(ids), offsets, heads, polynomial=base is not None).numpy() - spec.first_rows


def distinct(ids: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """Places in `ids` of one occurrence of every distinct n-gram, without those that begin before the first event."""
    windows = np.lib.stride_tricks.sliding_window_view(ids, order)
    return np.unique(_one_number(windows), return_index=True)[1] + order - 1


def lost(rows: NDArray[np.int64]) -> float:
    """Share of distinct n-grams (U, heads) that have no rows of their own: all heads together tell them apart."""
    return 1 - len(np.unique(_one_number(rows))) / len(rows)


def _one_number(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """(U, columns) -> (U,), different for different rows; the columns' ranges must fit 63 bits together."""
    found = np.zeros(len(columns), np.int64)
    for column in columns.T:
        found = found * (column.max() + 1) + column
    return found


def page(seed: int = 0, *, events: int = EVENTS, ids: int = IDS) -> Iterator[str]:
    """Lines of the page."""
    by_frequency = words(seed, events=events, ids=ids)
    mixed_up = np.random.default_rng(seed + 1).permutation(ids)[by_frequency]
    once = distinct(by_frequency, 2)
    yield f"{events:,} events, {ids:,} ids, Zipf {EXPONENT}, {len(once):,} distinct bigrams; of them are lost:"
    yield ""
    yield "| rows | polynomial, ids by frequency | polynomial, ids permuted | mixed | by chance | accepted |"
    yield "|---|---|---|---|---|---|"
    for ratio, more in SIZES:
        rows = [round(ratio * ids) + more]
        shares = [lost(rows_of(of, 2, rows, base=ids)[once]) for of in (by_frequency, mixed_up)]
        shares += [lost(rows_of(by_frequency, 2, rows)[once]), by_chance(len(once), rows[0])]
        name = f"{ratio:g} V0" + (f" + {more}" if more else "")
        yield f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} | {_judged(rows, ids)} |"
    yield from ("", "## Two heads", "", "Bigrams that both heads lose together.", "")
    yield "| rows of the heads | polynomial | mixed |"
    yield "|---|---|---|"
    for ratios in ((30.37, 30.37), (30.37, 31.61)):
        rows = [round(ratio * ids) for ratio in ratios]
        both = [round(lost(rows_of(by_frequency, 2, rows, base=base)[once]) * len(once)) for base in (ids, None)]
        yield f"| {' and '.join(f'{ratio:g} V0' for ratio in ratios)} | {both[0]:,} | {both[1]:,} |"
    yield from ("", "## Rows in use, by order", "", "Mixed hash, 30 V0 rows; events over distinct n-grams.", "")
    yield "| order | distinct n-grams | events per n-gram | rows used after 10 % of the events | after all |"
    yield "|---|---|---|---|---|"
    for order in ORDERS:
        of_events = rows_of(by_frequency, order, [30 * ids])[:, 0]
        used = [len(np.unique(of_events[: len(ids_)])) / (30 * ids) for ids_ in (of_events[: events // 10], of_events)]
        grams = len(distinct(by_frequency, order))
        yield f"| {order} | {grams:,} | {events / grams:.2f} | {used[0]:.1%} | {used[1]:.1%} |"


def _judged(rows: list[int], base: int) -> str:
    """Whether the declaration takes these rows with the polynomial."""
    try:
        NgramSpec(orders=[2], heads=1, rows=rows, hash="polynomial", base=base)
    except ValueError:
        return "refused"
    return "yes"
