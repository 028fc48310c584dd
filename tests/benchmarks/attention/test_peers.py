"""Every peer that a CPU has gives the result of the reference and its gradients, or says why it cannot."""

from functools import partial

import pytest
import torch

from benchmarks.attention.cases import TOY, Lengths, Problem, Shape, make_problem
from benchmarks.attention.peers import FORMS, PEERS, ours
from benchmarks.harness import Absent

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="on a GPU the benchmark compares all peers itself, with float64"
)
CASES = {shape.name: shape for shape in TOY}
NEEDS_CUDA = {"varlen_attn (FA2)", "FlexAttention", "FlashAttention-4"}
HERE = [name for name in PEERS if name not in NEEDS_CUDA]


def _problem(shape: Shape, lengths: Lengths) -> Problem:
    return make_problem(shape, lengths, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("lengths", ["fixed", "uniform"])
@pytest.mark.parametrize("peer", HERE)
@pytest.mark.parametrize("case", ["A8", "A10", "C4"])
def test_a_peer_computes_the_same(case: str, peer: str, lengths: Lengths) -> None:
    problem = _problem(CASES[case], lengths)
    try:
        problem = FORMS[peer](problem) if peer in FORMS else problem
        attention = PEERS[peer](problem)
    except Absent as why:
        pytest.skip(f"{peer} {why}")
    results = []
    for run in (attention, partial(ours, backend="reference")(problem)):
        leaves = [x.clone().requires_grad_() for x in (problem.q, problem.k, problem.v)]
        out = run(*leaves)
        results.append((out, *torch.autograd.grad(out, leaves, problem.grad)))
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_fbgemm_computes_one_case_and_says_why_not_the_others() -> None:
    reasons = {}
    for name, shape in CASES.items():
        try:
            PEERS["FBGEMM jagged"](_problem(shape, "uniform"))
        except Absent as why:
            reasons[name] = str(why)
    rows, causal, groups = "needs as many rows as keys", "has no causal mask", "has no mask for several candidates"
    assert reasons == {"A1": causal, "A3": causal, "A4": causal, "A8": rows, "C4": groups}


@pytest.mark.parametrize("peer", sorted(NEEDS_CUDA))
def test_what_needs_cuda_says_so(peer: str) -> None:
    with pytest.raises(Absent, match="needs CUDA"):
        PEERS[peer](_problem(CASES["A1"], "fixed"))
