"""The models that LONGER and HyFormer are compared with: DIN-style target attention, and pooling.

Legend: C candidates, N events of one sequence, d width of an event token.
"""

from torch import Tensor, nn

from dist_rec.data.lengths import Lengths
from dist_rec.kernels.prefix_sum import prefix_sum
from dist_rec.models.baselines.config import DinConfig, SumPoolingConfig
from dist_rec.models.layers.activation import GELU
from dist_rec.models.layers.cost import linear_flops
from dist_rec.models.layers.jagged import CandidateView, visible_mean
from dist_rec.models.layers.linear import Linear
from dist_rec.models.protocol import ModelInputs, SequenceSummary


class Din(SequenceSummary):
    """Target attention in the style of DIN (arXiv 1706.06978, section 4.3): an activation unit weighs every event
    against the candidate. Event tokens (N, d) and candidates -> (C, d): `sum_i a(x_i, v) x_i`, weights not normalised.

    Works on P pairs (candidate, event it sees): O(C * L) memory, no padding.
    """

    Config = DinConfig

    def __init__(self, options: DinConfig, inputs: ModelInputs) -> None:
        super().__init__()
        token_width, candidate_dim, hidden = inputs.config.tokens.width, inputs.candidate_dim, options.hidden
        self.candidate = Linear(candidate_dim, token_width)
        # The unit's first layer over [x ; v ; x * v]: the parts of x and v alone are applied before pairs are formed.
        self.event_part = Linear(token_width, hidden, bias=False)
        self.candidate_part = Linear(token_width, hidden)
        self.product_part = Linear(token_width, hidden, bias=False)
        self.weigh = nn.Sequential(GELU(), Linear(hidden, 1))
        self.width = token_width

    def forward(self, tokens: Tensor, lengths: Lengths, view: CandidateView) -> Tensor:
        candidate = self.candidate(view.features)
        pairs = view.visible(lengths)
        pair_candidate = pairs.request
        pair_event = lengths.starts[view.request][pair_candidate] + pairs.position
        x = tokens[pair_event]
        hidden = self.event_part(tokens)[pair_event] + self.candidate_part(candidate)[pair_candidate]
        weight = self.weigh(hidden + self.product_part(x * candidate[pair_candidate]))
        return prefix_sum(weight * x, pairs.offsets)

    def flops(self, length: int, candidates: int) -> dict[str, int]:
        once = length * linear_flops(self.event_part)
        each = linear_flops(self.candidate) + linear_flops(self.candidate_part)
        pairs = linear_flops(self.product_part) + linear_flops(self.weigh) + 2 * self.width
        return {"attention": once + candidates * (each + length * pairs)}

    def part_of(self, parameter: str) -> str:
        return "attention"


class SumPooling(SequenceSummary):
    """The baseline without attention: event tokens (N, d) are averaged over what each candidate sees -> (C, d).

    Order plays a part only as far as positions and times are in the tokens.
    """

    Config = SumPoolingConfig

    def __init__(self, options: SumPoolingConfig, inputs: ModelInputs) -> None:
        super().__init__()
        self.width = inputs.config.tokens.width

    def forward(self, tokens: Tensor, lengths: Lengths, view: CandidateView) -> Tensor:
        return visible_mean(tokens, lengths, view)

    def flops(self, length: int, candidates: int) -> dict[str, int]:
        return {}
