"""HyFormer against the paper's padded form, and what its masks promise."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_rec.data.lengths import Lengths
from dist_rec.kernels.cross_causal_attention import cross_causal_attention
from dist_rec.models.config import ModelConfig
from dist_rec.models.hyformer import query_decoder
from dist_rec.models.hyformer.model import HyFormer
from dist_rec.models.hyformer.sequence_encoder import AttentionEncoder, Encoded
from dist_rec.models.layers import attention_block
from dist_rec.models.layers.jagged import CandidateView, SequenceInputs
from tests.models.batches import make_inputs, make_view, saved_bytes
from tests.models.hyformer.dense import Padded, dense_hyformer

WIDTH = 24
LENGTHS = {"clicks": [9, 0, 1, 4, 3, 7], "search": [2, 3, 0, 1, 0, 5], "feed": [1, 6, 2, 0, 0, 4]}
COUNTS = [1, 2, 1, 3, 1, 0]
MIXED = {"clicks": {"encoder": "longer", "recent": 3}, "search": {"encoder": "full"}, "feed": {"encoder": "swiglu"}}
CASES: list[dict[str, Any]] = [
    {"sequences": MIXED},
    {"sequences": {name: {"encoder": "full", "causal": True} for name in LENGTHS}, "layers": 3},
    {"sequences": {name: {"encoder": "longer", "recent": 2, "causal": True} for name in LENGTHS}, "heads": 3},
    {"sequences": {**MIXED, "clicks": {"queries": 4}}},
    {"sequences": MIXED, "encode_from": "input", "pools": "own"},
    {"sequences": MIXED, "evolve_non_sequential": False, "query_inputs": ["non_sequential"]},
    {"sequences": MIXED, "rankmixer_block": True, "query_inputs": ["candidate"]},
    {"sequences": MIXED, "rotary": True},
    {"sequences": MIXED, "rotary": True, "encode_from": "input", "layers": 3},
    {"sequences": MIXED, "per_token": False, "query_inputs": ["pools"], "query_expansion": 2},
]


def _config(recompute: tuple[str, ...] = (), **changes: Any) -> ModelConfig:
    settings = {"heads": 2, "mixer_expansion": 2, **changes}
    return ModelConfig.model_validate(
        {"name": "hyformer", "tokens": {"width": WIDTH}, "hyformer": settings, "recompute": list(recompute)}
    )


def _model(recompute: tuple[str, ...] = (), **changes: Any) -> HyFormer:
    torch.manual_seed(0)
    # Context has 5 columns and a candidate 6; groups may take columns of both. T = 3 + 3, or 6 + 3 with 4 queries for
    # clicks.
    count = 6 if changes.get("sequences", {}).get("clicks", {}).get("queries") == 4 else 3
    groups = {
        "user": [slice(0, 3)],
        "both": [slice(3, 5), slice(5, 7)],
        "item": [slice(7, 11)],
    }
    groups |= {f"more {i}": [slice(i, i + 2)] for i in range(count - 3)}
    config = _config(recompute, **changes)
    return HyFormer(config.section("hyformer"), make_inputs(config, list(LENGTHS), groups, [1, 2])).double()


def _inputs(lengths: dict[str, list[int]] = LENGTHS, seed: int = 0) -> SequenceInputs:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return SequenceInputs(
        {name: randn(sum(own), WIDTH).requires_grad_() for name, own in lengths.items()},
        {name: Lengths.of(own) for name, own in lengths.items()},
        {name: randn(sum(COUNTS), WIDTH).requires_grad_() for name in lengths},
    )


def _padded(tokens: Tensor, lengths: Lengths, view: CandidateView, seed: int) -> Padded:
    """Every candidate with its own copy of the history, padded on both sides and in between with loud numbers."""
    generator = torch.Generator().manual_seed(seed)
    longest = 2 * lengths.longest + 3
    histories = tokens.split(lengths.host.tolist())
    rows, real = [], []
    for request in view.request.tolist():
        place = torch.randperm(longest, generator=generator)[: len(histories[request])].sort().values
        padding = 100 * torch.randn(longest, WIDTH, generator=generator, dtype=torch.float64)
        rows.append(padding.index_copy(0, place, histories[request]))
        real.append(torch.zeros(longest, dtype=torch.bool).index_fill(0, place, True))
    return Padded.of(torch.stack(rows), torch.stack(real))


def _gradients(model: HyFormer, out: Tensor, inputs: SequenceInputs) -> list[Tensor]:
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    leaves = [*model.parameters(), *inputs.tokens.values()]
    leaves += [] if "pools" not in model.config.query_inputs else list(inputs.pools.values())
    return list(torch.autograd.grad((out * weights).sum(), leaves))


@pytest.mark.parametrize("changes", CASES, ids=str)
@pytest.mark.parametrize("padding", [0, 1])
def test_equals_the_papers_padded_form(changes: dict[str, Any], padding: int) -> None:
    """Outputs and every gradient, over empty sequences, requests with several candidates and with none, and whatever
    stands in the padding and wherever it stands."""
    model, inputs, view = _model(**changes), _inputs(), make_view(COUNTS)
    got = model.mixed(inputs, view)
    sequences = {name: _padded(inputs.tokens[name], inputs.lengths[name], view, padding) for name in LENGTHS}
    truth = dense_hyformer(model, model.non_sequential(view), sequences, inputs.pools)
    torch.testing.assert_close(got, truth, rtol=0.0, atol=1e-11)
    for mine, theirs in zip(_gradients(model, got, inputs), _gradients(model, truth, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.0, atol=1e-9)


def _request(
    inputs: SequenceInputs, view: CandidateView, order: list[int]
) -> tuple[SequenceInputs, CandidateView, Tensor]:
    """The requests of `order`, in that order, as a batch of their own; and which candidates they are."""
    assert view.context is not None
    pieces = {name: inputs.tokens[name].split(inputs.lengths[name].host.tolist()) for name in inputs.tokens}
    candidates = torch.cat([torch.nonzero(view.request == b)[:, 0] for b in order])
    counts = Lengths.of(view.counts.tensor[order])
    return (
        SequenceInputs(
            {name: torch.cat([pieces[name][b] for b in order]) for name in pieces},
            {name: Lengths.of(inputs.lengths[name].tensor[order]) for name in pieces},
            {name: inputs.pools[name][candidates] for name in pieces},
        ),
        CandidateView(view.features[candidates], view.context[order], counts, None),
        candidates,
    )


@pytest.mark.parametrize("order", [[b] for b in range(5)] + [[3, 0, 5, 4, 2, 1]], ids=str)
@pytest.mark.parametrize("changes", CASES[:2], ids=["mixed", "causal"])
def test_a_request_alone_and_in_any_order_is_the_same(changes: dict[str, Any], order: list[int]) -> None:
    model, inputs, view = _model(**changes), _inputs(), make_view(COUNTS)
    together = model.mixed(inputs, view)
    some, own, candidates = _request(inputs, view, order)
    torch.testing.assert_close(model.mixed(some, own), together[candidates], rtol=0.0, atol=1e-12)


def test_an_empty_sequence_adds_exactly_nothing() -> None:
    """Its queries leave the decoder as they came; bit for bit, though weights and biases are anything."""
    model = _model(sequences=MIXED)
    layer = model.layers[0]
    x = torch.randn(sum(COUNTS), 6, WIDTH, dtype=torch.float64)
    view, inputs = make_view(COUNTS), _inputs()
    for name, decoder in layer.decoders.items():
        encoder = layer.encoders[name]
        for parameter in (*encoder.parameters(), *decoder.parameters()):
            torch.nn.init.normal_(parameter)
        encoded = encoder(Encoded.of(inputs.tokens[name], inputs.lengths[name]))
        decoded = decoder(x[:, :1], encoded, view)
        empty = inputs.lengths[name].tensor[view.request] == 0
        assert torch.equal(decoded[empty], x[empty][:, :1])
        assert not (decoded[~empty] == x[~empty][:, :1]).any()


def test_longer_with_all_events_recent_is_the_full_encoder() -> None:
    full, longer = (
        _model(sequences={name: {"encoder": kind, "recent": 9} for name in LENGTHS}) for kind in ("full", "longer")
    )
    inputs, view = _inputs(), make_view(COUNTS)
    assert torch.equal(full.mixed(inputs, view), longer.mixed(inputs, view))


def test_longer_stays_with_its_newest_events() -> None:
    model = _model(sequences={name: {"encoder": "longer", "recent": 2} for name in LENGTHS})
    inputs, view = _inputs(), make_view(COUNTS)
    encoded: dict[str, Any] = {}
    for name, encoder in model.layers[0].encoders.items():
        assert isinstance(encoder, AttentionEncoder)
        encoder.register_forward_hook(lambda _, __, out, name=name: encoded.update({name: out}))
    model.mixed(inputs, view)
    for name, lengths in LENGTHS.items():
        assert encoded[name].lengths.host.tolist() == [min(n, 2) for n in lengths]
        kept = [i for n in lengths for i in range(max(n - 2, 0), n)]
        assert encoded[name].position.tolist() == kept


def test_swiglu_never_attends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the decoders call attention: one call per sequence and layer, and none from an encoder."""
    calls = []
    monkeypatch.setattr(attention_block, "cross_causal_attention", lambda *_, **__: pytest.fail("an encoder attends"))
    attention = query_decoder.cross_causal_attention
    monkeypatch.setattr(query_decoder, "cross_causal_attention", lambda *a, **k: calls.append(k) or attention(*a, **k))
    model = _model(sequences={name: {"encoder": "swiglu"} for name in LENGTHS})
    model.mixed(_inputs(), make_view(COUNTS))
    assert len(calls) == 2 * len(LENGTHS)


def test_the_fused_kernel_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and every gradient in fp32, encoders and decoders."""
    model, inputs, view = _model(sequences=MIXED, heads=3).float(), _inputs(), make_view(COUNTS, dtype=torch.float32)
    tokens, pools = (
        {name: x.detach().float().requires_grad_() for name, x in own.items()} for own in (inputs.tokens, inputs.pools)
    )
    single, results = SequenceInputs(tokens, inputs.lengths, pools), []
    for backend in ("reference", "triton"):
        for module in (attention_block, query_decoder):
            monkeypatch.setattr(module, "cross_causal_attention", partial(cross_causal_attention, backend=backend))
        out = model.mixed(single, view)
        results.append([out, *_gradients(model, out, single)])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_merged_sequences_are_one_sequence() -> None:
    """Joined request by request, with one set of queries and the mean over all events."""
    model = _model(merge_sequences=True, sequences={"clicks": {"queries": 3}})
    inputs, view = _inputs(), make_view(COUNTS)
    pieces = {name: inputs.tokens[name].split(LENGTHS[name]) for name in LENGTHS}
    joined = torch.cat([pieces[name][b] for b in range(len(COUNTS)) for name in LENGTHS])
    total = Lengths.of([sum(LENGTHS[name][b] for name in LENGTHS) for b in range(len(COUNTS))])
    parts = [inputs.pools[name] * inputs.lengths[name].tensor[view.request][:, None] for name in LENGTHS]
    mean = torch.stack(parts).sum(0) / total.tensor[view.request][:, None].clamp(min=1)
    groups = {str(index): slices for index, slices in enumerate(model.non_sequential.groups)}
    config = _config(sequences={"merged": {"queries": 3}})
    one = HyFormer(config.section("hyformer"), make_inputs(config, ["merged"], groups, [1, 2])).double()
    one.load_state_dict(model.state_dict())
    alone = SequenceInputs({"merged": joined}, {"merged": total}, {"merged": mean})
    torch.testing.assert_close(model.mixed(inputs, view), one.mixed(alone, view), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("part", ["encoders", "decoders", "mixer"])
def test_recompute_saves_memory_and_changes_nothing(part: str) -> None:
    inputs, view = _inputs(), make_view(COUNTS)
    plain, again = _model(sequences=MIXED), _model((part,), sequences=MIXED)
    assert saved_bytes(lambda: again.mixed(inputs, view)) < saved_bytes(lambda: plain.mixed(inputs, view))
    first, second = (model.mixed(inputs, view) for model in (plain, again))
    assert torch.equal(first, second)
    for mine, theirs in zip(_gradients(plain, first, inputs), _gradients(again, second, inputs), strict=True):
        assert torch.equal(mine, theirs)


def test_no_candidates_at_all() -> None:
    model = _model(sequences=MIXED)
    empty = {name: [0] for name in LENGTHS}
    inputs = SequenceInputs(
        {name: torch.zeros(0, WIDTH, dtype=torch.float64) for name in empty},
        {name: Lengths.of([0]) for name in empty},
        {name: torch.zeros(0, WIDTH, dtype=torch.float64) for name in empty},
    )
    out = model.mixed(inputs, make_view([0]))
    assert out.shape == (0, 6, WIDTH)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
