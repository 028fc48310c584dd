"""The weights that a model teaches itself with: its own, or a copy that lags behind them.

    live           the weights of the step itself; nothing is kept
    frozen         the weights of one version
    ema            an exponential moving average: after every version, copy <- (1 - rate) copy + rate live
    trust_region   the frozen copy and the live weights together: their logits are mixed, so that the teacher's
                   probabilities are proportional to q_copy^(1 - rate) q_live^rate

Source: SDPO, https://arxiv.org/abs/2601.20802, Table 4; its rates are 0.05 and 0.01 (Table 12).
"""

from collections.abc import Iterator
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from dist_rec.common.choices import TeacherKind, check_choice

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element


class SelfTeacher(nn.Module):
    """A copy of the dense weights of `module`, none for `live`, that the host never waits for.

    Call `advance` once for every version of the weights. `rate` is the one of ema and trust_region. `start` is the
    version that frozen and trust_region copy, 0 the weights that `module` has now; until it is reached the copy has
    the weights from the beginning, and `ready` is false. The copy is always in eval mode and no part of `module`, nor
    is `module` of this. `versions` () int64 counts the versions and is saved with the copy.

    Memory: one copy of parameters and buffers; during `advance` up to two more.

    ValueError: an unknown kind, rate outside (0, 1], a negative start.
    """

    versions: Tensor

    def __init__(self, module: nn.Module, *, kind: TeacherKind, rate: float = 0.05, start: int = 0) -> None:
        super().__init__()
        check_choice("kind", kind, TeacherKind)
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"rate must be in (0, 1], got {rate}")
        if start < 0:
            raise ValueError(f"start must be a version, 0 or later, got {start}")
        self.kind, self.rate = kind, rate
        self.start = start if kind in ("frozen", "trust_region") else 0
        self.copy = deepcopy(module).requires_grad_(False).eval() if self.needs_copy else None
        device = next((tensor.device for _, tensor in _weights(module)), None)
        self.register_buffer("versions", torch.zeros((), dtype=torch.int64, device=device))
        self._known: int | None = 0  # `versions` where the host knows it too, without asking the device
        self._checked = False  # whether the module's weights were found to be those of the copy
        self.register_load_state_dict_post_hook(_know_what_was_loaded)

    @property
    def needs_live(self) -> bool:
        """Whether the module itself has to be run for the teacher."""
        return self.kind in ("live", "trust_region")

    @property
    def needs_copy(self) -> bool:
        return self.kind != "live"

    @property
    def ready(self) -> Tensor:
        """() bool on the device: false before the version that is copied."""
        return self.versions >= self.start

    def train(self, mode: bool = True) -> "SelfTeacher":
        """The copy stays in eval mode: it draws no random numbers and changes no running statistics."""
        super().train(mode)
        if self.copy is not None:
            self.copy.eval()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # those of the module
        """The copy's output, without a gradient; tensors in arguments, also inside dicts and lists, are detached.

        RuntimeError: `live` has no copy."""
        if self.copy is None:
            raise RuntimeError("a live teacher has no copy: run the module itself in eval mode and detach its output")
        with torch.no_grad():
            args, kwargs = tree_map_only(Tensor, Tensor.detach, (args, kwargs))
            return self.copy(*args, **kwargs)

    @torch.no_grad()
    def combine(self, z_live: Tensor | None, z_copy: Tensor | None) -> Tensor:
        """The teacher's logits, without a gradient, from the module's and the copy's of one shape: both for
        trust_region, otherwise the one that `needs_live` and `needs_copy` ask for.

        ValueError: one that is needed is None."""
        if not self.needs_copy:
            return self._given("z_live", z_live)
        if not self.needs_live:
            return self._given("z_copy", z_copy)
        return (1.0 - self.rate) * self._given("z_copy", z_copy) + self.rate * self._given("z_live", z_live)

    def _given(self, name: str, z: Tensor | None) -> Tensor:
        if z is None:
            raise ValueError(f"a teacher of kind {self.kind} needs {name}, got None")
        return z.detach()

    @torch.no_grad()
    def advance(self, module: nn.Module, applied: Tensor | None = None) -> None:
        """`module` has its next version of the weights, where `applied` () bool on the device is true (None: it has).
        Where it is false nothing moves, to the bit.

        ema moves floating buffers as it moves parameters, and takes others over.

        ValueError: parameters or buffers that are not those of the copy by name, shape and dtype, at the first call;
        another `applied`."""
        if applied is not None and (applied.dtype != torch.bool or applied.dim()):
            raise ValueError(f"applied must be () bool, got {tuple(applied.shape)} {applied.dtype}")
        if self.copy is not None and not self._checked:
            _check_pairs(self.copy, module)
            self._checked = True
        if applied is None:
            applied = torch.ones_like(self.versions, dtype=torch.bool)
            self._known = None if self._known is None else self._known + 1
        else:
            self._known = None
        self.versions.add_(applied)
        if self.copy is None:
            return
        if self.kind == "ema":
            copied, live = _pairs(self.copy, module)
            _take_where(applied, copied, _averages(copied, live, self.rate))
        elif self.start > 0 and self._known in (None, self.start):
            _take_where(applied & (self.versions == self.start), *_pairs(self.copy, module))


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(module.named_parameters(), module.named_buffers())


def _know_what_was_loaded(teacher: nn.Module, _: object) -> None:
    assert isinstance(teacher, SelfTeacher)
    teacher._known = None if teacher.versions.is_meta else int(teacher.versions)


def _check_pairs(copy: nn.Module, module: nn.Module) -> None:
    """Raises ValueError unless both have the same parameters and buffers by name, shape and dtype."""
    expected, found = ({name: f"{tuple(x.shape)} {x.dtype}" for name, x in _weights(of)} for of in (copy, module))
    differing = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if differing:
        raise ValueError(
            f"the module must have the parameters and buffers of the copy; {len(differing)} differ, the first is "
            f"{differing[0]}: expected {expected.get(differing[0], 'none')}, got {found.get(differing[0], 'none')}"
        )


def _pairs(copy: nn.Module, module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and buffers of both, in one order."""
    copied, live = dict(_weights(copy)), dict(_weights(module))
    return list(copied.values()), [live[name] for name in copied]


def _averages(copied: list[Tensor], live: list[Tensor], rate: float) -> list[Tensor]:
    """(1 - rate) copied + rate live for floating dtypes, live for others."""
    averages = list(live)
    parameters = [i for i, x in enumerate(copied) if isinstance(x, nn.Parameter)]
    if parameters:
        moved = torch._foreach_lerp([copied[i] for i in parameters], [live[i] for i in parameters], rate)
        for i, average in zip(parameters, moved):
            averages[i] = average
    for i, x in enumerate(copied):
        if x.is_floating_point() and not isinstance(x, nn.Parameter):
            # A mask holds infinities, which have no difference.
            averages[i] = torch.where(x == live[i], x, x.lerp(live[i], rate))
    return averages


def _take_where(flag: Tensor, old: list[Tensor], new: list[Tensor]) -> None:
    """`old <- new` where `flag` () bool is true, in three launches for each width of elements.

    The bits are multiplied by 0 or 1 as integers: a weight of zero would let through what is NaN or infinite."""
    for size in sorted({tensor.element_size() for tensor in old}):
        bits = BITS[size]
        pairs = [(x.view(bits), y.view(bits)) for x, y in zip(old, new) if x.element_size() == size]
        kept = [x for x, _ in pairs]
        taken = torch._foreach_mul([y for _, y in pairs], flag.to(bits))
        torch._foreach_mul_(kept, (~flag).to(bits))
        torch._foreach_add_(kept, taken)
