"""What a model is: the two classes that a model of one's own extends, and what it is built from.

A server makes of a sequence once what does not depend on candidates, and keeps it. By default that is event tokens;
a model that can do more extends the four methods of serving.

Legend: C candidates, N events of one sequence, B requests, d width of an event token, M groups of events.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dist_rec.common.strict import Strict
from dist_rec.data.lengths import Lengths
from dist_rec.models.config import ModelConfig
from dist_rec.models.features import FeatureColumns
from dist_rec.models.layers.jagged import CandidateView, Jagged, SequenceInputs
from dist_rec.models.options import ModelOptions


@dataclass(frozen=True)
class ModelInputs:
    """What is known when a model is built.

    - `config`: the `model` section of the recipe
    - `sequences`: names of the sequences, in the order of the schema
    - `columns`: the fields of context and candidate, and where their features are
    - `candidate_dim`, `context_dim`: widths of the features of a candidate and of a request (0 without context)
    """

    config: ModelConfig
    sequences: tuple[str, ...]
    columns: FeatureColumns
    candidate_dim: int
    context_dim: int


@dataclass(frozen=True)
class EventStates:
    """What a model makes of each group of events by itself, by name: (M, W) that are `kept`, and `passing` ones that
    are made again where `encode` reads them. Both follow from the tokens of the group alone, or with `rotates` also
    from its place."""

    kept: dict[str, Tensor]
    passing: dict[str, Tensor]


class Model(nn.Module):
    """Base of all models. `Config` has the options of the model; `width` is the width of what it gives the head, and
    `feedback_width` that of the feedback tokens that it lets twins attend to, where its options say READS_FEEDBACK."""

    Config: ClassVar[type[Strict]] = ModelOptions
    width: int
    feedback_width: int = 0

    def part_of(self, parameter: str) -> str:
        """The part that a parameter is counted with, by its name in this module."""
        return parameter.split(".")[0]


class SequenceModel(Model):
    """A model of all sequences together. Made by `Name(options, inputs)`."""

    def forward(self, sequences: SequenceInputs, view: CandidateView) -> list[Tensor]:
        """Event tokens (N_s, d) of every sequence -> tensors (C, width_i), `width` in all."""
        raise NotImplementedError

    def flops(self, lengths: dict[str, int], candidates: int) -> dict[str, int]:
        """Forward FLOPs by part of one request with so many events in each sequence."""
        raise NotImplementedError

    def group_size(self, name: str) -> int:
        """Adjacent events of a sequence that make one group, counted so that the newest are in a full one."""
        return 1

    def rotates(self, name: str) -> bool:
        """Whether the states of a group also follow from its place, counted from the oldest."""
        return False

    def event_states(self, name: str, tokens: Tensor, lengths: Lengths) -> EventStates:
        """Tokens (N, d) of whole groups, perhaps of some of a sequence: then `lengths` have their places."""
        return EventStates({"tokens": tokens}, {})

    def read_again(self, name: str, lengths: Lengths) -> Tensor:
        """(R,) int64: the groups whose `passing` states `encode` reads, of requests with so many groups."""
        return torch.arange(0)

    def encode(self, name: str, states: EventStates, lengths: Lengths) -> dict[str, Jagged]:
        """What else `score` needs of a sequence. States of all groups; `passing` ones are right where read again."""
        return {}

    def score(
        self,
        states: dict[str, dict[str, Jagged]],
        lengths: dict[str, Lengths],
        pools: dict[str, Tensor],
        view: CandidateView,
    ) -> list[Tensor]:
        """As `forward`, of what is kept of each sequence and of what `encode` made; `lengths` of the sequences in
        events, `pools` (C, d)."""
        tokens = {name: of["tokens"].values for name, of in states.items()}
        return self.forward(SequenceInputs(tokens, lengths, pools), view)


class SequenceSummary(Model):
    """A model of one sequence, of which every sequence gets one. Made by `Name(options, inputs)`."""

    def forward(self, tokens: Tensor, lengths: Lengths, view: CandidateView) -> Tensor:
        """Event tokens (N, d), oldest first, request after request, and how many each has -> (C, width)."""
        raise NotImplementedError

    def flops(self, length: int, candidates: int) -> dict[str, int]:
        """Forward FLOPs by part of one request with so many events."""
        raise NotImplementedError

    def group_size(self) -> int:
        """This and the following as in `SequenceModel`, of the one sequence."""
        return 1

    def rotates(self) -> bool:
        return False

    def event_states(self, tokens: Tensor, lengths: Lengths) -> EventStates:
        return EventStates({"tokens": tokens}, {})

    def read_again(self, lengths: Lengths) -> Tensor:
        return torch.arange(0)

    def encode(self, states: EventStates, lengths: Lengths) -> dict[str, Jagged]:
        return {}

    def score(self, states: dict[str, Jagged], lengths: Lengths, view: CandidateView) -> Tensor:
        return self.forward(states["tokens"].values, lengths, view)
