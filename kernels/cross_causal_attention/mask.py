"""Which keys a query row attends to, as one value that every backend takes.

Legend: B requests, m rows of one candidate's group.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Mask:
    """The options of the mask. `cross_causal_attention` has the rules; `checks.check_inputs` checks a mask.

    Args:
        causal: False lets every row attend to every key of its request.
        num_candidates: (B,) int32 or int64, candidates of each request; None: all keys are events.
        group_size: m.
        prefix_len: (sum of num_candidates,) int32 or int64, how many of the oldest events each candidate attends to;
            None: all of them.
        q_positions: (sum_q,) int32 or int64, key position of each query row; None: the last rows of the request.
        key_valid: (sum_kv,) bool, False hides a key from every row; None: no key is hidden.
    """

    causal: bool = True
    num_candidates: Tensor | None = None
    group_size: int = 1
    prefix_len: Tensor | None = None
    q_positions: Tensor | None = None
    key_valid: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.num_candidates, self.prefix_len, self.q_positions, self.key_valid

    @property
    def is_default(self) -> bool:
        return self.causal and self.group_size == 1 and all(x is None for x in self.tensors)
