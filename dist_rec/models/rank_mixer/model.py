"""RankMixer (arXiv 2507.15551): non-sequential tokens and one token per sequence summary, mixed L times.

On LONGER's summaries this is the BaseArch that HyFormer is compared with (arXiv 2601.12681, section 4); on pooled
sequences it is RankMixer as its own paper has it."""

import torch
from torch import Tensor, nn

from dist_rec.models.layers.cost import linear_flops, mixer_flops, non_sequential_flops
from dist_rec.models.layers.jagged import CandidateView
from dist_rec.models.layers.linear import Linear
from dist_rec.models.layers.mixing import RankMixerBlock
from dist_rec.models.layers.non_sequential import GroupedTokens, SlicedTokens
from dist_rec.models.layers.recompute import run
from dist_rec.models.rank_mixer.config import RankMixerConfig


class RankMixer(nn.Module):
    """Summaries (C, width_s) of S sequences and a view of C candidates -> mixed tokens (C, S + M, D), sequences
    first."""

    def __init__(
        self, config: RankMixerConfig, widths: list[int], tokens: GroupedTokens | SlicedTokens, recompute: bool
    ) -> None:
        super().__init__()
        self.width, self.expansion, self.recompute = config.width, config.expansion, recompute
        self.num_tokens = len(widths) + tokens.count
        self.non_sequential = tokens
        self.project = nn.ModuleList(Linear(width, config.width) for width in widths)
        block = (self.num_tokens, config.width, config.expansion, config.dropout, not config.per_token)
        self.blocks = nn.ModuleList(RankMixerBlock(*block) for _ in range(config.layers))

    def forward(self, summaries: list[Tensor], view: CandidateView) -> Tensor:
        sequences = [project(summary) for project, summary in zip(self.project, summaries, strict=True)]
        x = torch.cat([torch.stack(sequences, dim=1), self.non_sequential(view)], dim=1)
        for block in self.blocks:
            x = run(block, x, again=self.recompute)
        return x

    def flops(self, candidates: int) -> dict[str, int]:
        """Forward FLOPs by part of one request."""
        tokens = non_sequential_flops(self.non_sequential) + linear_flops(self.project)
        blocks = len(self.blocks) * mixer_flops(candidates, self.num_tokens, self.width, self.expansion)
        return {"non-sequential": candidates * tokens, "mixer": blocks}

    def part_of(self, parameter: str) -> str:
        return "mixer" if parameter.startswith("blocks.") else "non-sequential"
