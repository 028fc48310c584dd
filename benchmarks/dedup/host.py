"""Events per second that one core deduplicates: the C++ hash against what libraries offer, side by side."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from benchmarks.dedup.streams import event_ids, fields_of, share
from benchmarks.harness import measure_side_by_side
from dist_rec.data.dedup import native, unique_by_pyarrow, unique_tokens

Columns = list[NDArray[np.int64]]
# Distinct values of one column and, for every element, which of them it is.
Factorize = Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], NDArray]]


def _torch(column: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray]:
    values, inverse = torch.unique(torch.from_numpy(column), return_inverse=True)
    return values.numpy(), inverse.numpy()


def _pandas(column: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray]:
    import pandas

    codes, values = pandas.factorize(column)
    return np.asarray(values), codes


def _polars(column: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray]:
    import polars

    series = polars.Series(column)
    return series.unique().to_numpy(), series.rank("dense").to_numpy()


LIBRARIES: dict[str, Factorize] = {
    "pandas.factorize": _pandas,
    "torch.unique": _torch,
    "numpy.unique": lambda column: np.unique(column, return_inverse=True),
    "polars rank": _polars,
}


def _folded(factorize: Factorize) -> Callable[[Columns], object]:
    """Several fields with a library for one: each field's codes are joined to the index found so far."""

    def run(columns: Columns) -> object:
        values, inverse = factorize(columns[0])
        for column in columns[1:]:
            more, codes = factorize(column)
            values, inverse = factorize(inverse.astype(np.int64) * len(more) + codes)
        return values, inverse

    return run


def host_speed(repeats: int) -> list[str]:
    """One line per stream: M events/s of every way."""
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    if native() is None:
        raise SystemExit("the C++ extension is not built; there is nothing to compare")
    ways: dict[str, Callable[[Columns], object]] = {"C++ hash": unique_tokens, "pyarrow dictionary": unique_by_pyarrow}
    missing: list[str] = []
    for name, factorize in LIBRARIES.items():
        library = name.replace(" ", ".").partition(".")[0]
        if find_spec(library) is None:
            missing.append(library)
        else:
            ways[name] = _folded(factorize)
    lines = (
        [f"**Not compared, since not installed: {', '.join(missing)}** (pip install pandas polars)", ""]
        if missing
        else []
    )
    lines += [
        f"| stream | fields | duplicates | {' | '.join(ways)} | C++ / fastest library |",
        "|---" * (len(ways) + 4) + "|",
    ]
    for shape, duplicates, fields in [
        *(("zipf", d, 1) for d in (0.25, 0.5, 0.75, 0.9)),
        *(("uniform", 0.75, f) for f in (1, 4)),
        *(("zipf", d, 4) for d in (0.5, 0.75, 0.9)),
    ]:
        ids = event_ids(duplicates, shape)
        columns = fields_of(ids, fields)
        times = measure_side_by_side({name: partial(way, columns) for name, way in ways.items()}, repeats=repeats)
        rate = {name: len(ids) / timing.p50 / 1e6 for name, timing in times.items()}
        ratio = rate["C++ hash"] / max(value for name, value in rate.items() if name != "C++ hash")
        cells = " | ".join(f"{value:.0f}" for value in rate.values())
        lines.append(f"| {shape} | {fields} | {share(ids):.0%} | {cells} | {ratio:.1f} |")
        print(lines[-1], flush=True)
    return lines
