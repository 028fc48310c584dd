"""LONGER as the paper writes it (arXiv 2505.04421): one request, one candidate, newest first, globals in front, a dense
mask.

Uses the weights of a `Longer` and none of its code. Legend: L events, K merge factor, M = ceil(L / K) merged tokens,
d token width, D = K * d, m globals.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dist_rec.data.lengths import Lengths
from dist_rec.models.layers.attention_block import CrossCausalBlock
from dist_rec.models.longer.inner_trans import InnerTrans
from dist_rec.models.longer.model import Longer
from dist_rec.models.longer.query_rows import select_queries


def dense_longer(model: Longer, tokens: Tensor, features: Tensor, context: Tensor) -> Tensor:
    """tokens (L, d) oldest first, features (Dc,), context (Du,) -> (width,)."""
    merged = merged_newest_first(model, tokens)
    M, m = len(merged), len(model.config.globals)
    everything = torch.cat([_globals(model, features, context).flip(0), merged])
    # Row i of O has the row index of the same token in R: globals 0 .. m-1, then the picked merged tokens.
    if model.learned is not None:
        rows = torch.cat([everything[:m], model.learned.flip(0)])
        index = torch.cat([torch.arange(m), torch.full((len(model.learned),), m)])  # learned rows see every event
    else:
        picked = select_queries(model.config, Lengths.of([M]))
        index = torch.cat([torch.arange(m), m + (M - 1 - picked.position).flip(0)])
        rows = everything[index]
    j = torch.arange(m + M)
    state = _block(model.cross, rows, everything, j >= index[:, None])
    at = torch.arange(len(rows))
    for layer in model.layers:
        assert isinstance(layer, CrossCausalBlock)
        state = _block(layer, state, state, at >= at[:, None])
    out = F.layer_norm(state, state.shape[1:], model.norm.weight, model.norm.bias)
    sequence = out[m:].mean(0) if len(out) > m else out.new_zeros(out.shape[1])
    return torch.cat([out[:m].flip(0).flatten(), sequence])


def merged_newest_first(model: Longer, tokens: Tensor) -> Tensor:
    """(M, D): groups of K adjacent tokens starting at the latest; the last, oldest group is filled up with zeros."""
    K, d = model.config.merge, tokens.shape[1]
    groups = []
    for end in range(len(tokens), 0, -K):
        group = tokens[max(end - K, 0) : end]
        group = group if model.inner is None else _inner(model.inner, group)
        groups.append(torch.cat([group.new_zeros(K - len(group), d), group]).flatten())
    return torch.stack(groups) if groups else tokens.new_zeros(0, K * d)


def _inner(inner: InnerTrans, x: Tensor) -> Tensor:
    """(slots, d), real slots only, so that no mask is needed."""
    normed = F.layer_norm(x, x.shape[1:], inner.norm_attention.weight, inner.norm_attention.bias)
    q, k, v = inner.qkv(normed).chunk(3, dim=1)
    everyone = torch.ones(len(x), len(x), dtype=torch.bool)
    x = x + inner.project(_attention(q, k, v, everyone, inner.heads))
    return x + inner.ffn(F.layer_norm(x, x.shape[1:], inner.norm_ffn.weight, inner.norm_ffn.bias))


def _globals(model: Longer, features: Tensor, context: Tensor) -> Tensor:
    """(m, D) in the order of the configuration."""
    learned = iter([] if model.globals.learned is None else model.globals.learned)
    sources = {"candidate": features, "user": context}
    pairs = zip(model.config.globals, model.globals.project)
    return torch.stack([next(learned) if kind == "cls" else project(sources[kind]) for kind, project in pairs])


def _block(block: CrossCausalBlock, rows: Tensor, everything: Tensor, mask: Tensor) -> Tensor:
    """`softmax(Q K^T / sqrt(d_head) + Mask) V`, then the feed-forward layer, both pre-LN with a residual."""
    norm, ffn_norm = block.norm_attention, block.norm_ffn
    normed = [F.layer_norm(x, x.shape[1:], norm.weight, norm.bias) for x in (rows, everything)]
    q, k, v = block.query(normed[0]), block.key(normed[1]), block.value(normed[1])
    rows = rows + block.project(_attention(q, k, v, mask, block.heads))
    first, second = block.ffn[0], block.ffn[-1]
    return rows + second(F.gelu(first(F.layer_norm(rows, rows.shape[1:], ffn_norm.weight, ffn_norm.bias))))


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int) -> Tensor:
    out = []
    for q_h, k_h, v_h in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1)):
        # A row that sees nothing, as a learned one before an empty history, would make softmax divide by zero.
        hidden = ~mask & mask.any(1, keepdim=True)
        weights = (q_h @ k_h.T / q_h.shape[1] ** 0.5).masked_fill(hidden, float("-inf")).softmax(1) * mask
        out.append(weights @ v_h)
    return torch.cat(out, 1)
