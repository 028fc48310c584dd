"""Models that summarise every sequence for itself: LONGER, DIN and pooling, and how their summaries meet."""

from torch import Tensor, nn

from dist_rec.config import ModelConfig
from dist_rec.models.din import Din
from dist_rec.models.jagged import CandidateView, SequenceInputs
from dist_rec.models.longer import Longer
from dist_rec.models.mixing import picked, picked_width
from dist_rec.models.non_sequential import GroupedTokens, SlicedTokens
from dist_rec.models.pooling import SumPooling
from dist_rec.models.rank_mixer import RankMixer


class LateFusion(nn.Module):
    """Packed event tokens (N_s, d) of every sequence -> parts (C, width) for the head: the summaries side by side, or with
    `interaction: rankmixer` what RankMixer makes of them and of the non-sequential `tokens`."""

    def __init__(
        self,
        config: ModelConfig,
        sequences: list[str],
        candidate_dim: int,
        context_dim: int,
        tokens: GroupedTokens | SlicedTokens | None,
    ) -> None:
        super().__init__()
        encoders = {name: _encoder(config, candidate_dim, context_dim) for name in sequences}
        self.encoders = nn.ModuleDict(encoders)
        self.head_inputs = config.head_inputs
        self.widths = [encoder.width for encoder in encoders.values()]
        self.mixer = None if tokens is None else RankMixer(config.rankmixer, self.widths, tokens, "mixer" in config.recompute)
        self.width = sum(self.widths)
        if self.mixer is not None:
            self.width = picked_width(self.mixer.num_tokens, self.mixer.width, self.head_inputs, 0)

    def forward(self, sequences: SequenceInputs, view: CandidateView) -> list[Tensor]:
        summaries = [encoder(sequences.tokens[name], sequences.lengths[name], view) for name, encoder in self.encoders.items()]
        return summaries if self.mixer is None else picked(self.mixer(summaries, view), self.head_inputs, 0)


def _encoder(config: ModelConfig, candidate_dim: int, context_dim: int) -> Longer | Din | SumPooling:
    if config.name == "longer":
        inputs = config.head_inputs
        mixes = config.mixes  # RankMixer is given all there is
        return Longer(config, candidate_dim, context_dim, mixes or "sequence_mean" in inputs, mixes or "globals" in inputs)
    if config.name == "din":
        return Din(config.tokens.width, candidate_dim, config.din.hidden)
    return SumPooling(config.tokens.width)
