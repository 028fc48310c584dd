"""RankMixer over summaries and features: its tokens, and its blocks one by one."""

import torch
from torch import Tensor, nn

from dist_rec.models.layers.mixing import RankMixerBlock
from dist_rec.models.layers.non_sequential import GroupedTokens
from dist_rec.models.layers.per_token import PerTokenLinear
from dist_rec.models.rank_mixer.config import RankMixerConfig
from dist_rec.models.rank_mixer.model import RankMixer
from tests.models.batches import make_view, saved_bytes

WIDTH, WIDTHS, COUNTS = 20, [7, 3], [2, 0, 1]
VIEW = make_view(COUNTS)


def _mixer(recompute: bool = False, **changes: object) -> RankMixer:
    """T = 2 summaries + 3 groups."""
    torch.manual_seed(0)
    config = RankMixerConfig.model_validate({"width": WIDTH, "layers": 2, "expansion": 2, **changes})
    groups = {"user": [slice(0, 5)], "item": [slice(5, 9)], "both": [slice(4, 6), slice(9, 11)]}
    mixer = RankMixer(config, WIDTHS, GroupedTokens(groups, config.width), recompute).double()
    for parameter in mixer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return mixer


def _summaries() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(sum(COUNTS), width, generator=generator, dtype=torch.float64, requires_grad=True)
        for width in WIDTHS
    ]


def test_summaries_come_first_then_features() -> None:
    mixer, summaries = _mixer(), _summaries()
    seen: list[Tensor] = []
    mixer.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert mixer(summaries, VIEW).shape == (3, mixer.num_tokens, WIDTH) == (3, 5, WIDTH)
    for s, (summary, layer) in enumerate(zip(summaries, mixer.project)):
        torch.testing.assert_close(seen[0][:, s], summary @ layer.weight.T + layer.bias, rtol=0.0, atol=1e-13)
    assert torch.equal(seen[0][:, 2:], mixer.non_sequential(VIEW))


def test_equals_its_blocks_one_after_the_other() -> None:
    mixer, summaries = _mixer(layers=3), _summaries()
    x = torch.stack([*(layer(summary) for layer, summary in zip(mixer.project, summaries))], dim=1)
    x = torch.cat([x, mixer.non_sequential(VIEW)], dim=1)
    for block in mixer.blocks:
        assert isinstance(block, RankMixerBlock)
        x = block(x)
    assert len(mixer.blocks) == 3 and torch.equal(mixer(summaries, VIEW), x)


def test_every_token_hears_of_every_summary_and_feature() -> None:
    mixer, summaries = _mixer(), _summaries()
    out = mixer(summaries, VIEW)
    for token in range(5):
        inputs = [*summaries, *(layer.weight for layer in mixer.non_sequential.project)]
        gradients = torch.autograd.grad(out[:, token, 0].sum(), inputs, retain_graph=True)
        assert all(gradient.any() for gradient in gradients)


def test_weights_may_be_shared_by_all_positions() -> None:
    own, shared = (
        [
            layer
            for block in _mixer(per_token=per_token).blocks
            for layer in block.modules()
            if isinstance(layer, PerTokenLinear)
        ]
        for per_token in (True, False)
    )
    assert len(own) == 4 and not shared


def test_recompute_saves_memory_and_changes_nothing() -> None:
    plain, again, summaries = _mixer(), _mixer(recompute=True), _summaries()
    assert saved_bytes(lambda: again(summaries, VIEW)) < saved_bytes(lambda: plain(summaries, VIEW))
    outs = [mixer(summaries, VIEW) for mixer in (plain, again)]
    assert torch.equal(*outs)
    weights = torch.randn(outs[0].shape, dtype=torch.float64)
    first, second = (
        torch.autograd.grad((out * weights).sum(), [*mixer.parameters(), *summaries])
        for mixer, out in zip((plain, again), outs)
    )
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(first, second))


def test_no_candidates_leave_zero_gradients() -> None:
    mixer = _mixer()
    out = mixer([torch.zeros(0, width, dtype=torch.float64) for width in WIDTHS], make_view([0]))
    assert out.shape == (0, 5, WIDTH)
    assert not any(gradient.any() for gradient in torch.autograd.grad(out.sum(), list(mixer.parameters())))
