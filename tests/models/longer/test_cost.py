"""FLOPs of LONGER by formula against torch's own count."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dist_rec.data.lengths import Lengths
from dist_rec.kernels.cross_causal_attention import cross_causal_attention
from dist_rec.models.layers.cost import cross_layer_flops, mlp_flops
from dist_rec.models.longer.cost import LongerShape, longer_flops
from dist_rec.models.longer.model import Longer
from tests.models.batches import make_inputs, make_view, model_config


@dataclass(frozen=True)
class _Case:
    """One request; everything else as in `_shape`."""

    length: int
    candidates: int
    merge: int = 4
    k: int = 5
    inner: bool = True
    layers: int = 1


CASES = [
    _Case(length=64, candidates=1),
    _Case(length=61, candidates=1),  # the oldest group is padded, and costs as much as a full one
    _Case(length=64, candidates=3, layers=2),
    _Case(length=10, candidates=2, k=9),  # fewer merged tokens than k
    _Case(length=30, candidates=1, merge=1, k=0, inner=False, layers=0),
]


def _shape(case: _Case) -> LongerShape:
    return LongerShape(
        length=case.length,
        candidates=case.candidates,
        token_width=8,
        merge=case.merge,
        inner_trans=case.inner,
        k=case.k,
        group_size=2,
        self_layers=case.layers,
    )


def _counted(case: _Case) -> tuple[dict[str, int], LongerShape]:
    """What torch counts in a real forward of one request, by the parts of `longer_flops`."""
    shape = _shape(case)
    config = model_config(
        tokens={"width": shape.token_width},
        longer={"merge": case.merge, "k": case.k, "inner_trans": case.inner, "self_layers": case.layers},
    )
    lengths = Lengths.of([case.length])
    view = make_view([case.candidates], dtype=torch.float32)
    longer = Longer(config.section("longer"), make_inputs(config))
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        longer(torch.randn(case.length, shape.token_width), lengths, view)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    found = {
        "inner": counts.get("Longer.inner", 0),
        "cross": counts["Longer.cross"],
        "self": sum(counts.get(f"Longer.layers.{layer}", 0) for layer in range(case.layers)),
    }
    assert sum(counter.get_flop_counts()["Global"].values()) == sum(found.values()) + _globals_flops(case)
    return found, shape


def _globals_flops(case: _Case) -> int:
    """What `longer_flops` leaves out: the projections of a candidate of width 6 and of a context of width 5."""
    return case.candidates * mlp_flops([6, 8 * case.merge, 8 * case.merge]) + mlp_flops(
        [5, 8 * case.merge, 8 * case.merge]
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_torch_counts_the_same_in_a_real_forward(case: _Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products only: no norms, activations, softmax, biases or gathers on either side.

    The attention is the reference's, which multiplies every query row with every key row of its request and masks then,
    and for InnerTrans torch's plain one; the formula means the same. (The counter does not see into torch's fused
    attention for CPU, and `bucketed` spares event rows the candidates' keys, so both would count less.) The projections
    of the global tokens and of learned positions stand outside the formula."""
    reference = partial(cross_causal_attention, backend="reference")
    monkeypatch.setattr("dist_rec.models.layers.attention_block.cross_causal_attention", reference)
    found, shape = _counted(case)
    assert found == longer_flops(shape)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_bucketed_backend_costs_at_most_the_formula(case: _Case) -> None:
    found, shape = _counted(case)
    formula = longer_flops(shape)
    assert found["inner"] == formula["inner"]
    assert 0 < found["cross"] <= formula["cross"]
    assert found["self"] <= formula["self"]


def test_learned_query_rows_ask_however_few_events_there_are() -> None:
    short = replace(_shape(CASES[0]), length=8, k=5)
    recent, learned = longer_flops(short), longer_flops(replace(short, learnable=True))
    width = short.merge * short.token_width
    assert (
        recent["cross"]
        == cross_layer_flops(2 + 2, 2 + 2, width)
        < learned["cross"]
        == cross_layer_flops(5 + 2, 2 + 2, width)
    )
    assert learned["self"] == cross_layer_flops(5 + 2, 5 + 2, width)
