"""Models that summarise every sequence for itself, and how their summaries meet."""

from torch import Tensor, nn

from dist_rec.data.lengths import Lengths
from dist_rec.models.layers.jagged import CandidateView, Jagged, SequenceInputs
from dist_rec.models.layers.mixing import mixed_outputs, mixed_width
from dist_rec.models.layers.non_sequential import make_non_sequential
from dist_rec.models.options import ModelOptions
from dist_rec.models.protocol import EventStates, ModelInputs, SequenceModel, SequenceSummary
from dist_rec.models.rank_mixer.model import RankMixer


class LateFusion(SequenceModel):
    """Event tokens (N_s, d) of every sequence -> parts (C, width) for the head: the summaries side by side, or with
    `interaction: rankmixer` what RankMixer makes of them and of the non-sequential tokens."""

    def __init__(self, summary: type[SequenceSummary], options: ModelOptions, inputs: ModelInputs) -> None:
        super().__init__()
        config = inputs.config
        mixes = config.interaction == "rankmixer"
        tokens = make_non_sequential(config, inputs.columns, config.section("rankmixer").width) if mixes else None
        self.encoders = nn.ModuleDict({name: summary(options, inputs) for name in inputs.sequences})
        self.head_inputs = options.head_inputs(config)
        self.widths = [encoder.width for encoder in self.summaries.values()]
        recompute = "mixer" in config.recompute
        self.mixer = None if tokens is None else RankMixer(config.section("rankmixer"), self.widths, tokens, recompute)
        self.width = sum(self.widths)
        self.feedback_width = next(iter(self.summaries.values())).feedback_width
        if self.mixer is not None:
            self.width = mixed_width(self.mixer.num_tokens, self.mixer.width, self.head_inputs, 0)

    @property
    def summaries(self) -> dict[str, SequenceSummary]:
        return {name: encoder for name, encoder in self.encoders.items() if isinstance(encoder, SequenceSummary)}

    def forward(self, sequences: SequenceInputs, view: CandidateView) -> list[Tensor]:
        summaries = [
            encoder(sequences.tokens[name], sequences.lengths[name], view) for name, encoder in self.encoders.items()
        ]
        return self._met(summaries, view)

    def _met(self, summaries: list[Tensor], view: CandidateView) -> list[Tensor]:
        return summaries if self.mixer is None else mixed_outputs(self.mixer(summaries, view), self.head_inputs, 0)

    def group_size(self, name: str) -> int:
        return self.summaries[name].group_size()

    def rotates(self, name: str) -> bool:
        return self.summaries[name].rotates()

    def event_states(self, name: str, tokens: Tensor, lengths: Lengths) -> EventStates:
        return self.summaries[name].event_states(tokens, lengths)

    def read_again(self, name: str, lengths: Lengths) -> Tensor:
        return self.summaries[name].read_again(lengths)

    def encode(self, name: str, states: EventStates, lengths: Lengths) -> dict[str, Jagged]:
        return self.summaries[name].encode(states, lengths)

    def score(
        self,
        states: dict[str, dict[str, Jagged]],
        lengths: dict[str, Lengths],
        pools: dict[str, Tensor],
        view: CandidateView,
    ) -> list[Tensor]:
        found = [of.score(states[name], lengths[name], view) for name, of in self.summaries.items()]
        return self._met(found, view)

    def flops(self, lengths: dict[str, int], candidates: int) -> dict[str, int]:
        total: dict[str, int] = {}
        for name, encoder in self.summaries.items():
            for part, flops in encoder.flops(lengths[name], candidates).items():
                total[part] = total.get(part, 0) + flops
        return total if self.mixer is None else total | self.mixer.flops(candidates)

    def part_of(self, parameter: str) -> str:
        first, _, rest = parameter.partition(".")
        if first == "mixer" and self.mixer is not None:
            return self.mixer.part_of(rest)
        name, _, rest = rest.partition(".")
        return self.summaries[name].part_of(rest)
