"""HyFormer (arXiv 2601.12681): queries decode every behaviour sequence, then all tokens are mixed; repeated.

Legend: C candidates, B requests, S sequences, N query tokens of all sequences, M non-sequential tokens, T = N + M
tokens, D width. A layer encodes each sequence (H_l from H_(l-1)), lets the queries of that sequence look at it, and
boosts queries and non-sequential tokens together. Sequences are never merged: they meet in the mixing only."""

import torch
from torch import Tensor, nn

from dist_rec.data.lengths import Lengths
from dist_rec.models.hyformer.config import MERGED, HyFormerConfig, HyFormerSequence
from dist_rec.models.hyformer.cost import HyformerShape, SequenceShape, hyformer_flops
from dist_rec.models.hyformer.query_decoder import QueryDecoder
from dist_rec.models.hyformer.sequence_encoder import Encoded, make_encoder
from dist_rec.models.layers.cost import non_sequential_flops
from dist_rec.models.layers.jagged import CandidateView, Jagged, SequenceInputs, join_sequences
from dist_rec.models.layers.mixing import Boost, RankMixerBlock, mixed_outputs, mixed_width
from dist_rec.models.layers.non_sequential import make_non_sequential
from dist_rec.models.layers.norm import LayerNorm
from dist_rec.models.layers.per_token import PerTokenFfn
from dist_rec.models.layers.recompute import run
from dist_rec.models.protocol import EventStates, ModelInputs, SequenceModel


class HyFormer(SequenceModel):
    """Event tokens (N_s, D) of every sequence and their pools (C, D) -> parts (C, width) for the head."""

    Config = HyFormerConfig

    def __init__(self, hyformer: HyFormerConfig, inputs: ModelInputs) -> None:
        super().__init__()
        config, width = inputs.config, inputs.config.tokens.width
        self.config = hyformer
        tokens = make_non_sequential(config, inputs.columns, width)
        self.sequences = hyformer.settings(list(inputs.sequences))
        self.counts = {name: sequence.queries for name, sequence in self.sequences.items()}
        self.num_queries = sum(self.counts.values())
        self.num_tokens = self.num_queries + tokens.count
        self.non_sequential = tokens
        counts, candidate_tokens = list(self.counts.values()), inputs.columns.candidate_groups
        self.queries = QueryGenerator(hyformer, width, counts, tokens.count, candidate_tokens)
        recompute = frozenset(config.recompute)
        layers = (
            HyFormerLayer(hyformer, width, recompute, self.sequences, self.num_tokens) for _ in range(hyformer.layers)
        )
        self.layers = nn.ModuleList(layers)
        self.norm = LayerNorm(width)
        self.head_inputs = hyformer.head_inputs(config)
        self.width = mixed_width(self.num_tokens, width, self.head_inputs, self.num_queries)
        self.feedback_width = width

    def forward(self, sequences: SequenceInputs, view: CandidateView) -> list[Tensor]:
        return mixed_outputs(self.mixed(sequences, view), self.head_inputs, self.num_queries)

    def mixed(self, sequences: SequenceInputs, view: CandidateView) -> Tensor:
        """(C, T, D) tokens after the last layer, queries first."""
        tokens, lengths, pools = sequences.tokens, sequences.lengths, sequences.pools
        if self.config.merge_sequences:
            joined, together = join_sequences(list(tokens.values()), list(lengths.values()))
            tokens, lengths, pools = {MERGED: joined}, {MERGED: together}, _joined_pools(pools, lengths, view)
        inputs = {name: Encoded.of(tokens[name], lengths[name]) for name in self.sequences}
        features = self.non_sequential(view)
        queries = self.queries(features, pools)
        x, encoded = torch.cat([queries, features], dim=1), inputs
        for number, layer in enumerate(self.layers):
            if number and not self.config.evolve_non_sequential:
                x = torch.cat([x[:, : self.num_queries], features], dim=1)
            x, encoded = layer(x, inputs if self.config.encode_from == "input" else encoded, view)
        return self.norm(x)

    def rotates(self, name: str) -> bool:
        return self.config.rotary

    def event_states(self, name: str, tokens: Tensor, lengths: Lengths) -> EventStates:
        """Of SwiGLU, which takes every event for itself, the keys of all decoders. Attention encoders are run again
        over the whole sequence; joined sequences keep their tokens."""
        if self.config.merge_sequences:
            return super().event_states(name, tokens, lengths)
        if self.sequences[name].encoder != "swiglu":
            return EventStates({}, {"tokens": tokens})
        return EventStates({part: of.values for part, of in self._keys(name, tokens, lengths).items()}, {})

    def read_again(self, name: str, lengths: Lengths) -> Tensor:
        whole = not self.config.merge_sequences and self.sequences[name].encoder != "swiglu"
        return torch.arange(lengths.total if whole else 0)

    def encode(self, name: str, states: EventStates, lengths: Lengths) -> dict[str, Jagged]:
        return self._keys(name, states.passing["tokens"], lengths) if states.passing else {}

    def _keys(self, name: str, tokens: Tensor, lengths: Lengths) -> dict[str, Jagged]:
        """What the decoder of every layer sees of a sequence."""
        found, encoded = {}, (inputs := Encoded.of(tokens, lengths))
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, HyFormerLayer), "made so"
            encoded, keys = layer.keys(name, inputs if self.config.encode_from == "input" else encoded)
            found[f"keys.{number}"] = keys
        return found

    def score(
        self,
        states: dict[str, dict[str, Jagged]],
        lengths: dict[str, Lengths],
        pools: dict[str, Tensor],
        view: CandidateView,
    ) -> list[Tensor]:
        if self.config.merge_sequences:
            return super().score(states, lengths, pools, view)
        features = self.non_sequential(view)
        x = torch.cat([self.queries(features, pools), features], dim=1)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, HyFormerLayer), "made so"
            if number and not self.config.evolve_non_sequential:
                x = torch.cat([x[:, : self.num_queries], features], dim=1)
            keys = {name: of[f"keys.{number}"] for name, of in states.items()}
            x = layer.decode(x, keys, lengths, view)
        return mixed_outputs(self.norm(x), self.head_inputs, self.num_queries)

    def flops(self, lengths: dict[str, int], candidates: int) -> dict[str, int]:
        lengths = {MERGED: sum(lengths.values())} if self.config.merge_sequences else lengths
        sequences = (SequenceShape(lengths[name], s.encoder, s.recent, s.queries) for name, s in self.sequences.items())
        shape = HyformerShape(
            sequences=tuple(sequences),
            candidates=candidates,
            width=self.non_sequential.width,
            features=self.non_sequential.count,
            known=self.queries.known,
            layers=self.config.layers,
            ffn_expansion=self.config.ffn_expansion,
            mixer_expansion=self.config.mixer_expansion,
            query_expansion=self.config.query_expansion,
            from_input=self.config.encode_from == "input",
        )
        return {"non-sequential": candidates * non_sequential_flops(self.non_sequential), **hyformer_flops(shape)}

    def part_of(self, parameter: str) -> str:
        steps = parameter.split(".")
        part = steps[2] if steps[0] == "layers" else steps[0]
        return {"non_sequential": "non-sequential", "norm": "mixer"}.get(part, part)


class HyFormerLayer(nn.Module):
    """Encoding of every sequence, decoding by its queries, boosting of all tokens: (C, T, D) and H_(l-1) -> (C, T, D),
    H_l."""

    def __init__(
        self,
        hyformer: HyFormerConfig,
        width: int,
        recompute: frozenset[str],
        sequences: dict[str, HyFormerSequence],
        num_tokens: int,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.counts = {name: sequence.queries for name, sequence in sequences.items()}
        self.encoders = nn.ModuleDict(
            {name: make_encoder(hyformer, sequence, width) for name, sequence in sequences.items()}
        )
        self.decoders = nn.ModuleDict(
            {name: QueryDecoder(width, hyformer.heads, hyformer.rotary, hyformer.dropout) for name in sequences}
        )
        block = RankMixerBlock if hyformer.rankmixer_block else Boost
        self.mixer = block(num_tokens, width, hyformer.mixer_expansion, hyformer.dropout, not hyformer.per_token)

    def forward(self, x: Tensor, encoded: dict[str, Encoded], view: CandidateView) -> tuple[Tensor, dict[str, Encoded]]:
        again = self.recompute
        encoded = {
            name: run(encoder, encoded[name], again="encoders" in again) for name, encoder in self.encoders.items()
        }
        *queries, features = self._split(x)
        decoded = [
            run(decoder, own, encoded[name], view, again="decoders" in again)
            for (name, decoder), own in zip(self.decoders.items(), queries, strict=True)
        ]
        return run(self.mixer, torch.cat([*decoded, features], dim=1), again="mixer" in again), encoded

    def keys(self, name: str, encoded: Encoded) -> tuple[Encoded, Jagged]:
        """One sequence: H_(l-1) -> H_l, and what the decoder sees of it."""
        encoded = self.encoders[name](encoded)
        decoder = self.decoders[name]
        assert isinstance(decoder, QueryDecoder), "made so"
        return encoded, Jagged(decoder.key_values(encoded), encoded.lengths)

    def decode(self, x: Tensor, keys: dict[str, Jagged], events: dict[str, Lengths], view: CandidateView) -> Tensor:
        """`forward` of tokens (C, T, D), where the decoders' keys are there."""
        *queries, features = self._split(x)
        decoded = []
        for (name, decoder), own in zip(self.decoders.items(), queries, strict=True):
            assert isinstance(decoder, QueryDecoder), "made so"
            decoded.append(decoder.decode(own, keys[name], events[name], view))
        return self.mixer(torch.cat([*decoded, features], dim=1))

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The queries of every sequence, then the other tokens."""
        return x.split([*self.counts.values(), x.shape[1] - sum(self.counts.values())], dim=1)


class QueryGenerator(nn.Module):
    """`Q = [FFN_1(GlobalInfo) .. FFN_N(GlobalInfo)]` (section 3.3): non-sequential tokens (C, M, D) and pooled
    sequences (C, D) by name -> (C, N, D), the queries of one sequence after those of another."""

    def __init__(
        self, config: HyFormerConfig, width: int, counts: list[int], num_features: int, candidate_tokens: list[int]
    ) -> None:
        super().__init__()
        kinds = config.query_inputs
        self.own = [sequence for sequence, count in enumerate(counts) for _ in range(count)]
        self.features = (
            list(range(num_features)) if "non_sequential" in kinds else candidate_tokens * ("candidate" in kinds)
        )
        self.pools = 0 if "pools" not in kinds else 1 if config.pools == "own" else len(counts)
        self.known = len(self.features) + self.pools
        self.ffn = PerTokenFfn(
            len(self.own), (self.known * width, config.query_expansion * width, width), config.dropout
        )
        self.each = self.pools > 0 and config.pools == "own"

    def forward(self, features: Tensor, pools: dict[str, Tensor]) -> Tensor:
        known = [features[:, place] for place in self.features]
        pooled = [pool.to(features.dtype) for pool in pools.values()] if self.pools else []
        if self.each:
            return self.ffn(torch.stack([torch.cat([*known, pooled[sequence]], dim=1) for sequence in self.own], dim=1))
        # The same for all queries: expand() is a view, and no copy per query is made.
        everything = torch.cat([*known, *pooled], dim=1)
        return self.ffn(everything.unsqueeze(1).expand(-1, len(self.own), -1))


def _joined_pools(pools: dict[str, Tensor], lengths: dict[str, Lengths], view: CandidateView) -> dict[str, Tensor]:
    """The mean over all events of a request, from the means over each sequence."""
    if not pools:
        return {}
    weights = torch.stack([lengths[name].tensor for name in pools], dim=1)[view.request].unsqueeze(2).float()
    stacked = torch.stack(list(pools.values()), dim=1)
    return {MERGED: (stacked * weights).sum(1) / weights.sum(1).clamp(min=1)}
