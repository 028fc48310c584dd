"""FLOPs of a candidate in the paper's configuration, and of one against kept states as torch counts them."""

from dataclasses import replace
from functools import partial

import pytest
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.serving.paper import SHAPE, kept_flops, paper_rows
from dist_rec.kernels.cross_causal_attention import cross_causal_attention
from dist_rec.models.longer.cost import longer_flops
from tests.serve.engines import make_engine
from tests.serve.exports import make_requests, table_of


def test_the_published_numbers_follow_from_the_formula() -> None:
    assert round(sum(longer_flops(SHAPE).values()) / 1e6) == 397
    assert round(kept_flops(SHAPE) / 1e6, 1) == 7.0


@pytest.mark.parametrize("layers", [0, 2])
def test_torch_counts_the_same_where_a_candidate_is_scored(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = partial(cross_causal_attention, backend="reference")
    monkeypatch.setattr("dist_rec.models.layers.attention_block.cross_causal_attention", reference)
    longer = {"merge": 4, "k": 5, "self_layers": layers}
    engine, _ = make_engine({"longer": longer, "tokens": {"width": 8}})
    request = make_requests(1, longest=40)[0]
    table = table_of([{**request, "candidate.item": [1], "candidate.kind": [1]}])
    states = engine.encode(table)
    with FlopCounterMode(display=False) as counter:
        engine.score(states, table)
    counts = {name: sum(of.values()) for name, of in counter.get_flop_counts().items()}
    shape = replace(SHAPE, token_width=8, merge=4, k=5, self_layers=layers)
    lengths = (len(request["history.item"]), len(request["searches.query"]))
    expected = sum(kept_flops(replace(shape, length=length)) for length in lengths)  # a stack for each sequence
    assert counts["Global"] - counts["GlobalTokens"] - counts["Head"] == expected


def test_the_table() -> None:
    lines = list(paper_rows())
    assert len({line.count("|") for line in lines}) == 1
    published, formula, between, whole = (line.split("|")[2:5] for line in lines[2:6])
    assert published[:2] == [" 397.00 M ", " 7.00 M "] and formula == [" 397.16 M ", " 7.02 M ", " 57 "]
    assert between[0] == formula[0] and float(between[1].split()[0]) > float(formula[1].split()[0])
    assert float(whole[0].split()[0]) > 397
