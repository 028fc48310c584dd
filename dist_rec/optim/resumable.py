"""How a `HybridOptimizer` saves and loads its state, in each of the three forms of `saved.py`."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torchrec.optim.keyed import KeyedOptimizer

from dist_rec.optim.delayed import DelayedAllReduce
from dist_rec.optim.dense import DenseOptimizers, filled, present
from dist_rec.optim.dense_step import DenseStep
from dist_rec.optim.pending_reduce import DelayedGradient
from dist_rec.optim.saved import (
    Beside,
    ByParameter,
    Params,
    Slot,
    check_tree,
    from_stock,
    gathered,
    is_stock,
    rates_by_name,
    rates_of_groups,
    spread,
    to_stock,
)


class Resumable(KeyedOptimizer):
    """The state of a `HybridOptimizer`, which assigns the attributes declared here."""

    _fused: KeyedOptimizer | None
    _dense: DenseOptimizers
    _dense_step: DenseStep
    _parameters: Mapping[str, nn.Parameter]
    _reduce: DelayedAllReduce | None
    _in_flight: DelayedGradient | None
    _accumulation: int
    _micro: int
    _beside: Beside
    _offered: "WeakValueDictionary[str, Slot]"  # the slots that `state` returned last
    steps: int
    _updates: int  # dense updates so far, dropped ones too
    _dropped: int | Tensor  # of them dropped; counted on the device where that decides

    @property
    def applied(self) -> int:
        return self._updates - self.skipped

    @property
    def skipped(self) -> int:
        return int(self._dropped)

    @property
    def params(self) -> Mapping[str, Any]:
        return Params({**(self._fused.params if self._fused is not None else {}), **self._parameters}, self._beside)

    @property
    def state(self) -> Mapping[Any, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Parameter -> state. A dense parameter has the tensors of its optimizer and, under `hybrid`, the rest of what
        a resumed run needs, computed when it is read. TorchRec's `CombinedOptimizer` saves and loads this mapping."""
        fused = self._fused.state if self._fused is not None else {}
        return ByParameter(fused, self._parameters, self._slots, self._beside)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, by parameter name. Waits for the gradient in flight, but does not apply it.

        Saving changes nothing, except with `compress`: all ranks then share the residual equally, as the ranks that
        load it do, however many. Comm: one all-reduce per bucket with `compress`, otherwise none.

        Raises:
            RuntimeError: in the middle of an accumulation.
        """
        fused = self._fused.state_dict() if self._fused is not None else {}
        beside = self._beside.state_dict()
        return {**self._dense_tree(), "fused": fused, **({"beside": beside} if beside else {})}

    def _dense_tree(self) -> dict[str, Any]:
        self._check_between_steps("state_dict")
        in_flight = {} if self._in_flight is None else self._gradients_of(self._in_flight)
        state: dict[str, Any] = {
            "dense": self._dense.state_dict(),
            "in_flight": filled(in_flight, self._parameters),
            "counters": torch.tensor([self.steps, self.applied, self.skipped, self._in_flight is not None]),
            "rates": rates_by_name(self._dense.groups, self._dense.names),
        }
        if self._dense_step.correction.keeps_history:
            state["last"] = filled(self._dense_step.correction.last, self._parameters)
        if self._reduce is not None and (residual := self._reduce.residual()):
            state["residual"] = residual
        return state

    def stock_state_dict(self) -> dict[str, Any]:
        """The state in the form of TorchRec's own optimizers: `{"state": parameter name -> tensors}`.

        `load_state_dict` accepts this form, too: the state of a `CombinedOptimizer` of fused and dense optimizers.

        Raises:
            RuntimeError: if a gradient is in flight, which this form cannot hold; call `flush()` first.
        """
        if self._in_flight is not None:
            raise RuntimeError(
                "stock_state_dict: a gradient is in flight, and TorchRec's state has no place for it; flush() first"
            )
        return to_stock(self.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Loads a `state_dict`, from any number of ranks and with any parameter groups. Restores dense learning rates
        unless `lr_factor` sets them. As always in TorchRec, the job restores the rates of fused optimizers.

        Raises:
            ValueError: if the state was saved by an earlier version, belongs to other parameters, tables or optimizers,
                or has different rates for parameters that are in one group now. Nothing is changed then.
        """
        own = self.state_dict()
        state = from_stock(state, own) if is_stock(state) else state
        check_tree(state, own)
        rates = rates_of_groups(self._dense.groups, self._dense.names, state["rates"])
        if self._fused is not None:
            self._fused.load_state_dict(state["fused"])
        self._beside.load_state_dict(state.get("beside", {}))
        self._load_dense(state, rates)

    def forget(self, rows: Mapping[str, Tensor]) -> None:
        """Drops the gradient in flight, after waiting for its all-reduce, and whatever is kept of earlier gradients:
        in `p.grad`, the residual of `compress`, the histories of a correction and of `health`. A dropped gradient
        counts as `skipped`. The dense state of `rows`, (n,) int64 by parameter name, becomes zeros; parameters that a
        fused optimizer updates are left to it. Call on all ranks.

        Raises:
            RuntimeError: in the middle of an accumulation.
        """
        self._check_between_steps("forget")
        self.zero_grad()
        if self._in_flight is not None:
            if self._in_flight.reduce is not None:
                self._gradients_of(self._in_flight)
                self._in_flight.reduce.release()
            self._in_flight = None
            self._updates, self._dropped = self._updates + 1, self._dropped + 1
        self._dense_step.correction.forget()
        self._dense_step.health.forget()
        if self._reduce is not None:
            self._reduce.forget()
        self._dense.reset_rows({name: of for name, of in rows.items() if name in self._parameters})

    def post_load_state_dict(self) -> None:
        """Called by a `CombinedOptimizer` around this one, after it has copied a state into the slots that `state`
        returned."""
        if self._fused is not None:
            self._fused.post_load_state_dict()
        offered, self._offered = dict(self._offered), WeakValueDictionary()
        if offered:
            tree = gathered(offered)
            self._load_dense(tree, rates_of_groups(self._dense.groups, self._dense.names, tree["rates"]))

    def _load_dense(self, state: dict[str, Any], rates: list[float]) -> None:
        self._dense.load_state_dict(state["dense"])
        self.steps, applied, self._dropped, in_flight = (int(count) for count in state["counters"])
        self._updates = applied + self._dropped
        if self._in_flight is not None and self._in_flight.reduce is not None:
            self._gradients_of(self._in_flight)
            self._in_flight.reduce.release()
        self._in_flight = DelayedGradient(None, present(state["in_flight"])) if in_flight else None
        if self._dense_step.correction.keeps_history:
            self._dense_step.correction.last = present(state["last"])
        if self._reduce is not None:
            self._reduce.load_residual(state.get("residual", {}))
        if self._dense_step.lr_factor is None:
            for group, rate in zip(self._dense.groups, rates, strict=True):
                group["lr"] = rate

    def _slots(self) -> dict[str, Slot]:
        slots = spread(self._dense_tree())
        self._offered = WeakValueDictionary(slots)
        return slots

    def _gradients_of(self, gradient: DelayedGradient) -> dict[str, Tensor]:
        """Mean gradients by parameter name; waits for their all-reduce, if that was not done before."""
        if gradient.gradients is None:
            assert gradient.reduce is not None and self._reduce is not None, "one of the two fields is set"
            gradient.gradients = self._reduce.wait(gradient.reduce)
        return gradient.gradients

    def _check_between_steps(self, what: str) -> None:
        if self._micro:
            raise RuntimeError(
                f"{what}: {self._micro} of {self._accumulation} gradients are added up; expected it after every "
                f"{self._accumulation}th step()"
            )
