"""What one candidate costs in the configuration of LONGER's paper (arXiv 2505.04421, sections 3.4 and 3.6.3), with its
history computed for it and with states kept: the paper's formula, and a model of that shape.

Legend: M merged rows of a history, D merged width, m global rows of a candidate, k query rows.
"""

from collections.abc import Iterator

from benchmarks.ladder.cell import Cell
from benchmarks.serving.forms import Forms
from dist_rec.models.cost import request_flops
from dist_rec.models.longer.cost import LongerShape, longer_flops

EVENTS, MERGE, K, WIDTH = 2000, 8, 100, 32
SHAPE = LongerShape(
    length=EVENTS, candidates=1, token_width=WIDTH, merge=MERGE, inner_trans=False, k=K, group_size=2, self_layers=1
)
PUBLISHED = (397e6, 7.0e6)
SETTINGS = (f"model.longer.k={K}", f"model.tokens.width={WIDTH}", "model.longer.self_layers=1")


def kept_flops(shape: LongerShape) -> int:
    """Of one candidate against kept states: its own m rows through all layers, K and V of them alone, and their
    products with M + m keys in the first layer and k + m in the others."""
    width, m = shape.merge * shape.token_width, shape.group_size
    merged = -(-shape.length // shape.merge)
    recent = min(shape.k, merged) if shape.k else merged
    keys = merged + m + shape.self_layers * (recent + m)
    rows = (1 + shape.self_layers) * m
    return (8 + 4 * shape.expansion) * rows * width**2 + 4 * m * keys * width


def paper_rows() -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| one candidate of 2,000 events, merge 8, k 100, 1 + 1 layers | history with it | states kept | ratio |"
    yield "|---|---|---|---|"
    yield _line("published", *PUBLISHED)
    yield _line("the layers by the paper's formula", sum(longer_flops(SHAPE).values()), kept_flops(SHAPE))
    forms = Forms.of(Cell("longer", str(EVENTS), 1, MERGE, batch=4, steps=1, settings=SETTINGS))
    ranker = forms.engine.halves.ranker
    lengths = {of.name: EVENTS for of in forms.schema.sequences}
    one, two = (request_flops(ranker, lengths, candidates) for candidates in (1, 2))
    each = {part: two[part] - of for part, of in one.items()}
    layers = ("cross", "self")
    yield _line(
        "the layers, counted from one candidate to the next", *(sum(of[p] for p in layers) for of in (one, each))
    )
    yield _line("the whole model", sum(one.values()), sum(each.values()))
    for part, of in one.items():
        if part not in layers:
            yield _line(f"of it {part}", of, each[part])


def _line(name: str, whole: float, kept: float) -> str:
    ratio = f"{whole / kept:.0f}" if kept else ""
    return f"| {name} | {whole / 1e6:,.2f} M | {kept / 1e6:,.2f} M | {ratio} |"
