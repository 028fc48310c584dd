"""What a model is: the two classes that a model of one's own extends, and what it is built from.

Legend: C candidates, N events of one sequence, B requests, d width of an event token.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from dist_rec.common.strict import Strict
from dist_rec.data.lengths import Lengths
from dist_rec.models.config import ModelConfig
from dist_rec.models.features import FeatureColumns
from dist_rec.models.layers.jagged import CandidateView, SequenceInputs
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


class SequenceSummary(Model):
    """A model of one sequence, of which every sequence gets one. Made by `Name(options, inputs)`."""

    def forward(self, tokens: Tensor, lengths: Lengths, view: CandidateView) -> Tensor:
        """Event tokens (N, d), oldest first, request after request, and how many each has -> (C, width)."""
        raise NotImplementedError

    def flops(self, length: int, candidates: int) -> dict[str, int]:
        """Forward FLOPs by part of one request with so many events."""
        raise NotImplementedError
