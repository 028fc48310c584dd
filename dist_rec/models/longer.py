"""LONGER (arXiv 2505.04421): token merge, global tokens, one cross-causal layer, N self-causal layers.

Legend: B requests, N events, K merge factor, M merged tokens, d token width, D = K * d merged width, k query rows,
m rows of one candidate's group, C candidates. Rows stand oldest first with the candidates' groups after the events; the
paper writes newest first with the globals in front, which is the same thing reversed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dist_rec.config import ConfigError, Global, LongerConfig, ModelConfig
from dist_rec.models.attention_block import AttentionRows, CrossCausalBlock
from dist_rec.models.inner_trans import InnerTrans
from dist_rec.models.jagged import CandidateView, GroupLayout, owner, position_in_request, visible_mean
from dist_rec.models.recompute import run


class Longer(nn.Module):
    """Packed event tokens (N, d) and candidates -> (C, `width`): the outputs of each candidate's global tokens, and if
    `sequence_mean` the mean of the sequence outputs it sees."""

    def __init__(
        self, config: ModelConfig, candidate_dim: int, context_dim: int, sequence_mean: bool, with_globals: bool
    ) -> None:
        super().__init__()
        longer = config.longer
        self.config, self.recompute = longer, frozenset(config.recompute)
        self.sequence_mean, self.with_globals = sequence_mean, with_globals
        d, width = config.tokens.width, config.tokens.width * longer.merge
        self.inner = InnerTrans(d, longer.inner_heads, longer.ffn_expansion, longer.dropout) if longer.inner_trans else None
        self.globals = GlobalTokens(longer.globals, candidate_dim, context_dim, width)
        self.learned = nn.Parameter(0.02 * torch.randn(longer.k, width)) if longer.queries == "learnable" else None
        block = (width, longer.heads, longer.ffn_expansion, longer.rotary, longer.dropout)
        self.cross = CrossCausalBlock(*block)
        self.layers = nn.ModuleList(CrossCausalBlock(*block) for _ in range(longer.self_layers))
        self.norm = nn.LayerNorm(width)
        self.width = width * (len(longer.globals) * with_globals + sequence_mean)

    def forward(self, tokens: Tensor, lengths: Tensor, view: CandidateView) -> Tensor:
        """tokens (N, d); lengths (B,) int32, events per request."""
        sequence, groups, q_lengths = self.states(tokens, lengths, view)
        per_candidate = (len(view.request), len(self.config.globals))
        parts = [self.norm(groups).unflatten(0, per_candidate).flatten(1)] if self.with_globals else []
        if self.sequence_mean:
            parts.append(visible_mean(self.norm(sequence), q_lengths, view))
        return torch.cat(parts, dim=1)

    def states(self, tokens: Tensor, lengths: Tensor, view: CandidateView) -> tuple[Tensor, Tensor, Tensor]:
        """Last layer's sequence rows (sum_q, D), group rows (C * m, D) and query rows per request (B,)."""
        merged, merged_lengths = self.merge(tokens, lengths)
        groups = self.globals(view)
        m, num_candidates = len(self.config.globals), len(view.request)
        picked, q_lengths = select_queries(self.config, merged_lengths, len(merged))
        sequence = merged[picked.index] if self.learned is None else self.learned.repeat(len(lengths), 1)

        keys = GroupLayout.of(merged_lengths, len(merged), view.counts, num_candidates, m)
        rows = GroupLayout.of(q_lengths, len(sequence), view.counts, num_candidates, m)
        key_rotary = self._rotary(keys, position_in_request(merged_lengths, len(merged)), merged_lengths, view)
        row_rotary = self._rotary(rows, picked.position, merged_lengths, view)
        group_position = keys.group_place - keys.offsets[:-1].long()[view.request].repeat_interleave(m)
        q_positions = rows.join(picked.position[:, None], group_position[:, None])[:, 0]

        # One candidate per request that sees everything is the plain causal mask, which needs no look at groups.
        counts = None if view.max_count <= 1 and view.seen is None else view.counts
        # All events ask with k = 0; their number is known on the device only.
        max_q_len = self.config.k + m * view.max_count if self.config.k else None

        def attention_rows(layout: GroupLayout, rotary: Tensor, positions: Tensor | None) -> AttentionRows:
            return AttentionRows(rows.offsets, layout.offsets, counts, m, view.seen, positions, max_q_len, row_rotary, rotary)

        state = rows.join(sequence, groups)
        everything = keys.join(merged, groups)
        recent = self.config.queries == "recent"
        state = self._run(
            "cross", self.cross, state, everything, attention_rows(keys, key_rotary, None if recent else q_positions)
        )
        for layer in self.layers:
            state = self._run("self", layer, state, state, attention_rows(rows, row_rotary, None))
        return state[rows.event_place], state[rows.group_place], q_lengths

    def merge(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) -> (sum M, K * d) and (B,) merged lengths ceil(L / K). An incomplete group is padded at its oldest end,
        so that the newest events always form full groups; padding stays zero."""
        K = self.config.merge
        merged_lengths = (lengths + K - 1).div(K, rounding_mode="floor")
        num_merged = len(tokens) if K == 1 else int(merged_lengths.sum())
        # Everything before and in a request's own padding shifts its events to the right.
        shift = (merged_lengths * K - lengths).cumsum(0)
        place = torch.arange(len(tokens), device=tokens.device) + shift[owner(lengths, len(tokens))]
        grouped = tokens.new_zeros(num_merged * K, tokens.shape[1]).index_copy(0, place, tokens).unflatten(0, (num_merged, K))
        if self.inner is not None:
            real = torch.zeros(num_merged * K, dtype=torch.bool, device=tokens.device).index_fill(0, place, True)
            grouped = self._run("inner", self.inner, grouped, real.view(num_merged, K))
        return grouped.flatten(1), merged_lengths

    def _rotary(self, layout: GroupLayout, position: Tensor, merged_lengths: Tensor, view: CandidateView) -> Tensor:
        """Positions for rotary embeddings: an event's own, and for a group the first position its candidate does not see."""
        end = merged_lengths[view.request] if view.seen is None else view.seen
        groups = end.repeat_interleave(len(self.config.globals))
        return layout.join(position.float()[:, None], groups.float()[:, None])[:, 0]

    def _run(self, part: str, module: nn.Module, *inputs: Tensor | AttentionRows) -> Tensor:
        return run(module, *inputs, again=part in self.recompute)


class GlobalTokens(nn.Module):
    """One row per global token of every candidate, each with its own projection: (C * m, D).

    `candidate` comes from the candidate's features, `user` from the request's context, `cls` is learned. Fig. 1 of the
    paper has the first two.
    """

    def __init__(self, kinds: list[Global], candidate_dim: int, context_dim: int, width: int) -> None:
        super().__init__()
        if "user" in kinds and context_dim == 0:
            raise ConfigError(
                "model.longer.globals: global token 'user' needs context fields, but the schema declares none; take it out"
            )
        self.kinds = list(kinds)
        sources = {"candidate": candidate_dim, "user": context_dim}
        self.project = nn.ModuleList(
            nn.Sequential(nn.Linear(sources[kind], width), nn.GELU(), nn.Linear(width, width))
            if kind != "cls"
            else nn.Identity()
            for kind in kinds
        )
        # None rather than empty: a parameter outside the graph makes DDP wait for its gradient.
        self.learned = nn.Parameter(0.02 * torch.randn(kinds.count("cls"), width)) if "cls" in kinds else None

    def forward(self, view: CandidateView) -> Tensor:
        learned = iter(() if self.learned is None else self.learned)
        rows = []
        for kind, project in zip(self.kinds, self.project, strict=True):
            if kind == "candidate":
                rows.append(project(view.features))
            elif kind == "user":
                assert view.context is not None
                rows.append(project(view.context)[view.request])
            else:
                rows.append(next(learned).expand(len(view.request), -1))
        dtype = rows[0].dtype
        return torch.stack([row.to(dtype) for row in rows], dim=1).flatten(0, 1)


@dataclass(frozen=True)
class Picked:
    """Query rows from the sequence: `index` (sum_q,) into the packed merged rows, `position` (sum_q,) in the request."""

    index: Tensor
    position: Tensor


def select_queries(config: LongerConfig, lengths: Tensor, total: int) -> tuple[Picked, Tensor]:
    """Which of each request's M merged rows ask: (Picked, (B,) int32 query rows per request).

    recent: the newest min(k, M). uniform: min(k, M) evenly spaced, the newest included. mixed: k // 2 evenly spaced among
    the older ones, then the newest k - k // 2. learnable: k rows that are not events and see all of them.
    """
    starts = lengths.cumsum(0) - lengths
    if config.k == 0 and config.queries != "learnable":
        position = position_in_request(lengths, total)
        return Picked(torch.arange(total, device=lengths.device), position), lengths
    if config.queries == "learnable":
        q_lengths = torch.full_like(lengths, config.k)
        requests = owner(q_lengths, config.k * len(lengths))
        return Picked(requests, lengths.long()[requests] - 1), q_lengths
    q_lengths = lengths.clamp(max=config.k)
    num_rows = int(q_lengths.sum())
    requests, i = owner(q_lengths, num_rows), position_in_request(q_lengths, num_rows)
    M, q = lengths.long()[requests], q_lengths.long()[requests]
    recent = M - q + i
    if config.queries == "recent":
        position = recent
    else:
        spread = config.k if config.queries == "uniform" else config.k // 2
        evenly, among = torch.minimum(q, torch.full_like(q, spread)), M - (q - spread).clamp(min=0)
        position = torch.where(i < evenly, ((i + 1) * among).div(evenly.clamp(min=1), rounding_mode="floor") - 1, recent)
    return Picked(starts.long()[requests] + position, position), q_lengths
