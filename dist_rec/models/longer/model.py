"""LONGER (arXiv 2505.04421): token merge, global tokens, one cross-causal layer, N self-causal layers.

Legend: B requests, N events, K merge factor, M merged tokens, d token width, D = K * d merged width, k query rows, m
rows of one candidate's group, C candidates. Rows are ordered oldest first, with the candidates' groups after the
events; the paper writes newest first with the globals in front, which is the same thing reversed."""

import torch
from torch import Tensor, nn

from dist_rec.data.lengths import Lengths
from dist_rec.kernels.cross_causal_attention import Mask
from dist_rec.models.layers.attention_block import AttentionRows, CrossCausalBlock
from dist_rec.models.layers.cost import linear_flops
from dist_rec.models.layers.jagged import CandidateView, GroupLayout, Jagged, visible_mean
from dist_rec.models.layers.norm import LayerNorm
from dist_rec.models.layers.placed_rows import Placing, picked_rows, placed_rows, placed_twice
from dist_rec.models.layers.recompute import run
from dist_rec.models.longer.config import LongerConfig
from dist_rec.models.longer.cost import LongerShape, longer_flops
from dist_rec.models.longer.global_tokens import GlobalTokens
from dist_rec.models.longer.inner_trans import InnerTrans
from dist_rec.models.longer.key_rows import KeyRows
from dist_rec.models.longer.merge import merged_places
from dist_rec.models.longer.query_rows import select_queries
from dist_rec.models.longer.serving import encode_queries, first_rows, score_groups
from dist_rec.models.protocol import EventStates, ModelInputs, SequenceSummary


class Longer(SequenceSummary):
    """Event tokens (N, d) and candidates -> (C, `width`): the outputs of each candidate's global tokens, and the mean
    of the sequence outputs that it sees. The head decides which; RankMixer gets both."""

    Config = LongerConfig

    def __init__(self, longer: LongerConfig, inputs: ModelInputs) -> None:
        super().__init__()
        config, wanted = inputs.config, longer.head_inputs(inputs.config)
        self.config, self.recompute = longer, frozenset(config.recompute)
        self.sequence_mean = longer.mixes(config) or "sequence_mean" in wanted
        self.with_globals = longer.mixes(config) or "globals" in wanted
        d, width = config.tokens.width, config.tokens.width * longer.merge
        self.inner = (
            InnerTrans(d, longer.inner_heads, longer.ffn_expansion, longer.dropout) if longer.inner_trans else None
        )
        self.globals = GlobalTokens(longer.globals, inputs.candidate_dim, inputs.context_dim, width)
        self.learned = nn.Parameter(0.02 * torch.randn(longer.k, width)) if longer.queries == "learnable" else None
        block = (width, longer.heads, longer.ffn_expansion, longer.dropout)
        self.cross = CrossCausalBlock(*block)
        self.layers = nn.ModuleList(CrossCausalBlock(*block) for _ in range(longer.self_layers))
        self.norm = LayerNorm(width)
        self.width = width * (len(longer.globals) * self.with_globals + self.sequence_mean)
        self.token_width, self.feedback_width = d, width

    def forward(self, tokens: Tensor, lengths: Lengths, view: CandidateView) -> Tensor:
        """tokens (N, d); lengths: events of the requests."""
        sequence, groups, q_lengths = self.states(tokens, lengths, view)
        per_candidate = (view.counts.total, len(self.config.globals))
        parts = [self.norm(groups).unflatten(0, per_candidate).flatten(1)] if self.with_globals else []
        if self.sequence_mean:
            parts.append(visible_mean(self.norm(sequence), q_lengths, view))
        return torch.cat(parts, dim=1)

    def states(self, tokens: Tensor, lengths: Lengths, view: CandidateView) -> tuple[Tensor, Tensor, Lengths]:
        """Last layer's sequence rows (sum_q, D), group rows (C * m, D) and query rows per request."""
        merged, merged_lengths = self.merge(tokens, lengths)
        groups = self.globals(view)
        m = len(self.config.globals)
        selected = select_queries(self.config, merged_lengths)
        q_lengths = selected.lengths

        keys, rows = KeyRows.of(merged_lengths, view, m), GroupLayout.of(q_lengths, view.counts, m)
        key_rotary = row_rotary = None
        if self.config.rotary:
            key_rotary = self._rotary(keys.layout, merged_lengths.slot, merged_lengths, view, keys.group_size)
            row_rotary = self._rotary(rows, selected.slot, merged_lengths, view, m)
        # The newest rows need no positions, nor do groups without feedback: they are the last rows of a request.
        q_positions = None
        if self.config.queries != "recent" or view.twins is not None:
            q_positions = rows.join(selected.position[:, None], keys.group_position[:, None])[:, 0]

        # One candidate per request that attends to everything: then the plain causal mask suffices, without
        # num_candidates.
        plain = view.counts.longest <= 1 and view.prefix_len is None and view.twins is None
        counts = None if plain else view.counts.tensor
        prefix_len = None if view.prefix_len is None else view.prefix_len.tensor
        # With k = 0 every event is a query row, and no bound is the same for all batches.
        max_q_len = self.config.k + m * view.counts.longest if self.config.k else None

        def attention_rows(
            layout: GroupLayout, group_size: int, rotary: Tensor | None, positions: Tensor | None
        ) -> AttentionRows:
            mask = Mask(num_candidates=counts, group_size=group_size, prefix_len=prefix_len, q_positions=positions)
            return AttentionRows(rows.lengths.offsets, layout.lengths.offsets, mask, max_q_len, row_rotary, rotary)

        if self.learned is None and view.twins is None:
            placings = [
                Placing(keys.layout.event_index, selected.index, rows.event_index),
                Placing(keys.group_index, None, rows.group_index),
            ]
            totals = (keys.layout.lengths.total, rows.lengths.total)
            everything, state = placed_twice([merged, groups], placings, totals)
        else:
            querying = (
                picked_rows(merged, selected.index)
                if self.learned is None
                else self.learned.to(groups.dtype).repeat(len(lengths), 1)
            )
            everything, state = keys.join(merged, groups, view.twins), rows.join(querying, groups)
        cross = attention_rows(keys.layout, keys.group_size, key_rotary, q_positions)
        state = self._run("cross", self.cross, state, everything, cross)
        for layer in self.layers:
            state = self._run("self", layer, state, state, attention_rows(rows, m, row_rotary, None))
        return picked_rows(state, rows.event_index), picked_rows(state, rows.group_index), q_lengths

    def merge(self, tokens: Tensor, lengths: Lengths) -> tuple[Tensor, Lengths]:
        """(N, d) -> (sum M, K * d) and merged lengths ceil(L / K). An incomplete group is padded at its oldest end, so
        that the newest events always form full groups; padding and empty slots stay zero, and a group of empty slots
        alone is none."""
        K = self.config.merge
        if K == 1 and self.inner is None:
            return tokens, lengths
        place, merged_lengths = merged_places(lengths, K)
        num_merged = merged_lengths.total
        grouped = placed_rows([(tokens, place)], num_merged * K, padded=True).unflatten(0, (num_merged, K))
        if self.inner is not None:
            real = torch.zeros(num_merged * K, dtype=torch.bool, device=tokens.device).index_fill(0, place, True)
            grouped = self._run("inner", self.inner, grouped, real.view(num_merged, K))
        return grouped.flatten(1), merged_lengths

    def _rotary(
        self, layout: GroupLayout, position: Tensor, merged_lengths: Lengths, view: CandidateView, group_size: int
    ) -> Tensor:
        """Positions for rotary embeddings: an event's own, and for a group the first position its candidate does not
        see."""
        groups = view.end(merged_lengths.places).tensor.repeat_interleave(group_size)
        return layout.join(position.float()[:, None], groups.float()[:, None])[:, 0]

    def _run(self, part: str, module: nn.Module, *inputs: Tensor | AttentionRows) -> Tensor:
        return run(module, *inputs, again=part in self.recompute)

    def group_size(self) -> int:
        return self.config.merge

    def rotates(self) -> bool:
        return self.config.rotary

    def event_states(self, tokens: Tensor, lengths: Lengths) -> EventStates:
        merged, rows = self.merge(tokens, lengths)
        keys = self.cross.key_values(merged, rows.slot.float() if self.config.rotary else None)
        return EventStates({"keys": keys}, {"merged": merged})

    def read_again(self, lengths: Lengths) -> Tensor:
        if self.learned is not None:
            return super().read_again(lengths)
        return select_queries(self.config, lengths).index

    def encode(self, states: EventStates, lengths: Lengths) -> dict[str, Jagged]:
        selected = select_queries(self.config, lengths)
        start = first_rows(states.passing["merged"], selected, self.learned)
        events = Jagged(states.kept["keys"], lengths)
        keys, last = encode_queries(
            self.blocks, start, events, selected, rotary=self.config.rotary, last=self.sequence_mean
        )
        found = {f"keys.{number}": of for number, of in enumerate(keys)}
        return found if last is None else found | {"last": Jagged(self.norm(last), selected.lengths)}

    def score(self, states: dict[str, Jagged], lengths: Lengths, view: CandidateView) -> Tensor:
        m, merged = len(self.config.globals), states["keys"].lengths
        keys = [states["keys"], *(states[f"keys.{number}"] for number in range(len(self.layers)))]
        rotary = view.end(merged).tensor.repeat_interleave(m).float() if self.config.rotary else None
        parts = []
        if self.with_globals:
            groups = score_groups(self.blocks, keys, self.globals(view), m, view, rotary)
            parts.append(self.norm(groups).unflatten(0, (view.counts.total, m)).flatten(1))
        if self.sequence_mean:
            parts.append(visible_mean(states["last"].values, states["last"].lengths, view))
        return torch.cat(parts, dim=1)

    @property
    def blocks(self) -> list[CrossCausalBlock]:
        return [self.cross, *(layer for layer in self.layers if isinstance(layer, CrossCausalBlock))]

    def flops(self, length: int, candidates: int) -> dict[str, int]:
        counts = {"candidate": candidates, "user": 1, "cls": 0}
        projections = zip(self.config.globals, self.globals.project, strict=True)
        shape = LongerShape(
            length=length,
            candidates=candidates,
            token_width=self.token_width,
            merge=self.config.merge,
            inner_trans=self.config.inner_trans,
            k=self.config.k,
            group_size=len(self.config.globals),
            self_layers=self.config.self_layers,
            expansion=self.config.ffn_expansion,
            learnable=self.learned is not None,
        )
        return {
            "globals": sum(counts[kind] * linear_flops(project) for kind, project in projections),
            **longer_flops(shape),
        }

    def part_of(self, parameter: str) -> str:
        first = super().part_of(parameter)
        return {"layers": "self", "norm": "self", "learned": "queries"}.get(first, first)
