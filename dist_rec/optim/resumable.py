"""What a `HybridOptimizer` saves and goes on from, in each of the three forms of `saved.py`."""

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torchrec.optim.keyed import KeyedOptimizer

from dist_rec.optim.delayed import DelayedAllReduce, Pending
from dist_rec.optim.dense import DenseOptimizers
from dist_rec.optim.gaps import filled, present
from dist_rec.optim.loss_scale import LossScale
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
from dist_rec.optim.staleness import Correction
from dist_rec.optim.view import View


class Resumable(KeyedOptimizer):
    """The state of a `HybridOptimizer`, which sets what is declared here."""

    _fused: KeyedOptimizer | None
    _dense: DenseOptimizers
    _parameters: Mapping[str, nn.Parameter]
    _loss_scale: LossScale
    _correction: Correction
    _reduce: DelayedAllReduce | None
    _in_flight: Pending | None
    _view: View | None
    _lr_factor: Callable[[int], float] | None
    _accumulation: int
    _micro: int
    _beside: Beside
    _offered: "WeakValueDictionary[str, Slot]"  # what `state` gave out last
    steps: int
    applied: int
    skipped: int

    @property
    def params(self) -> Mapping[str, Any]:
        return Params({**(self._fused.params if self._fused is not None else {}), **self._parameters}, self._beside)

    @property
    def state(self) -> Mapping[Any, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """By parameter; for dense ones what their optimizer keeps and, under `hybrid`, all else that a resumed run needs, put
        together when asked for. TorchRec's `CombinedOptimizer` saves and loads this."""
        fused = self._fused.state if self._fused is not None else {}
        return ByParameter(fused, self._parameters, self._slots, self._beside)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, the gradient in flight included (waited for, not applied), by parameter name.

        Saving changes nothing, but for `compress`: then all ranks share equally from here what rounding has withheld, as those
        that resume will (on however many ranks). Comm: then one all-reduce per bucket.

        Raises:
            RuntimeError: while gradients are being accumulated.
        """
        fused = self._fused.state_dict() if self._fused is not None else {}
        beside = self._beside.state_dict()
        return {**self._dense_tree(), "fused": fused, **({"beside": beside} if beside else {})}

    def _dense_tree(self) -> dict[str, Any]:
        self._check_between_steps("state_dict")
        waiting = self._in_flight
        scaled = self._loss_scale.is_enabled
        state: dict[str, Any] = {
            "dense": self._dense.state_dict(),
            "in_flight": filled(self._waiting(), self._parameters),
            "counters": torch.tensor(
                [self.steps, self.applied, self.skipped, waiting is not None, scaled, self._loss_scale.good]
            ),
            "scales": torch.tensor(
                [self._loss_scale.scale, waiting.scale if waiting is not None else 1.0], dtype=torch.float64
            ),
            "rates": rates_by_name(self._dense.groups, self._dense.names),
        }
        if self._correction.keeps_history:
            state["last"] = filled(self._correction.last, self._parameters)
        if self._correction.needs_weights:
            state["computed_at"] = filled(waiting.computed_at if waiting is not None else {}, self._parameters)
        if self._reduce is not None and (withheld := self._reduce.withheld()):
            state["withheld"] = withheld
        return state

    def stock_state_dict(self) -> dict[str, Any]:
        """The state as TorchRec's own optimizers have it, to go on without this one: `{"state": parameter name -> tensors}`.

        `load_state_dict` takes such a state, too: that of a `CombinedOptimizer` of fused and dense optimizers.

        Raises:
            RuntimeError: while a gradient is in flight, for which there is no place in it; `flush()` first.
        """
        if self._in_flight is not None:
            raise RuntimeError(
                "stock_state_dict: a gradient is in flight, and TorchRec's state has no place for it; flush() first"
            )
        return to_stock(self.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Goes on from a `state_dict`, on any number of ranks and with any parameter groups. Dense learning rates come back
        where no `lr_factor` sets them; those of the fused optimizers are the job's, as ever with TorchRec.

        Raises:
            ValueError: if the state is of other parameters, tables or optimizers, or has different rates for parameters that
                are one group now; nothing is changed then.
        """
        own = self.state_dict()
        state = from_stock(state, own) if is_stock(state) else state
        check_tree(state, own)
        rates = rates_of_groups(self._dense.groups, self._dense.names, state["rates"])
        if self._fused is not None:
            self._fused.load_state_dict(state["fused"])
        self._beside.load_state_dict(state.get("beside", {}))
        self._load_dense(state, rates)

    def post_load_state_dict(self) -> None:
        """After a `CombinedOptimizer` around this one has copied a state into what `state` had offered."""
        if self._fused is not None:
            self._fused.post_load_state_dict()
        offered, self._offered = dict(self._offered), WeakValueDictionary()
        if offered:
            tree = gathered(offered)
            self._load_dense(tree, rates_of_groups(self._dense.groups, self._dense.names, tree["rates"]))

    def _load_dense(self, state: dict[str, Any], rates: list[float]) -> None:
        self._dense.load_state_dict(state["dense"])
        self.steps, self.applied, self.skipped, waiting, scaled, good = (int(count) for count in state["counters"])
        scale, scale_in_flight = state["scales"].tolist()
        if scaled:
            self._loss_scale.restore(scale, good)
        if self._in_flight is not None and self._in_flight.flight is not None:
            self._land(self._in_flight)
            self._in_flight.flight.release()
        self._in_flight = None
        if waiting:
            computed_at = present(state.get("computed_at", {}))
            self._in_flight = Pending(None, scale_in_flight, computed_at, present(state["in_flight"]))
        if self._correction.keeps_history:
            self._correction.last = present(state["last"])
        if self._reduce is not None:
            self._reduce.withhold(state.get("withheld", {}))
        if self._lr_factor is None:
            for group, rate in zip(self._dense.groups, rates, strict=True):
                group["lr"] = rate

    def _slots(self) -> dict[str, Slot]:
        slots = spread(self._dense_tree())
        self._offered = WeakValueDictionary(slots)
        return slots

    def _waiting(self) -> dict[str, Tensor]:
        """The gradient in flight, scaled as it came."""
        if self._in_flight is None:
            return {}
        viewed = self._view is not None and self._view.applied is self._in_flight
        return self._view.as_it_came() if viewed and self._view is not None else self._land(self._in_flight)

    def _land(self, in_flight: Pending) -> dict[str, Tensor]:
        if in_flight.landed is None:
            assert in_flight.flight is not None and self._reduce is not None, "not landed, so on its way"
            in_flight.landed = self._reduce.land(in_flight.flight)
        return in_flight.landed

    def _check_between_steps(self, what: str) -> None:
        if self._micro:
            raise RuntimeError(
                f"{what}: {self._micro} of {self._accumulation} gradients are added up; expected it after every "
                f"{self._accumulation}th step()"
            )
