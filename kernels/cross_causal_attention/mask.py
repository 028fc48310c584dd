"""Which keys a query row attends to, as one value that every backend takes.

Legend: B requests, m rows of one candidate's group.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Mask:
    """The options of the mask, with the meaning of the keywords of `cross_causal_attention`, which checks them."""

    causal: bool = True
    num_candidates: Tensor | None = None  # (B,) int32 or int64
    group_size: int = 1  # m
    prefix_len: Tensor | None = None  # (sum of num_candidates,) int32 or int64
    q_positions: Tensor | None = None  # (sum_q,) int32 or int64
    key_valid: Tensor | None = None  # (sum_kv,) bool

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.num_candidates, self.prefix_len, self.q_positions, self.key_valid

    @property
    def is_default(self) -> bool:
        return self.causal and self.group_size == 1 and all(x is None for x in self.tensors)
