"""`DedupLoader`: deduplicates the `KeyedJaggedTensor`s of any loader's batches on the host, in a thread."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data.ahead import KEPT_POSITIONS, Ahead, Failed, position_of
from dist_rec.data.rewrite import replace_inside
from dist_rec.data.unique_features import UniqueFeatures, why_not

_log = logging.getLogger(__name__)


class DedupLoader:
    """Yields the batches of `loader` with every `KeyedJaggedTensor` replaced by `UniqueFeatures`.

    A batch may be a `KeyedJaggedTensor`, or contain some at any depth: in tuples, lists, dicts, dataclasses, pydantic
    models or other objects (see `replace_inside`). The objects around are copied, never changed. Features with weights,
    a stride per key or a repeated key cannot be deduplicated: beside others they stay unchanged, which is logged once.
    A thread keeps `prefetch` batches ready, in the order of `loader`. It hashes without Python's lock, so the training
    thread does not wait. An early end of the iteration waits for the thread, up to 5 s if `loader` is slow.

    With a loader that has `state_dict` and `load_state_dict`, such as torchdata's `StatefulDataLoader`, both exist here
    too. The state counts the batches that were yielded, not the batches that were read ahead. It is the loader's own
    state, so the loader alone can load it as well.

    Args:
        loader: any iterable of batches in host memory. If it pins memory itself, its own tensors stay pinned.
        feature_sets: keys to deduplicate together, such as `[["item", "category"]]`: they have the same lengths in
            every sample and share one inverse index. Every other key is deduplicated alone.
        num_embeddings: key -> number of rows of its table, which decides the integer type of the transfer. Without it
            the largest id of each batch decides.
        prefetch: batches ready ahead, at least 1.
        pin_memory: whether to pin deduplicated features, for asynchronous copies; by default, if there is a GPU.

    Raises:
        ValueError: (while iterating) a batch in which nothing can be deduplicated, or that is deduplicated already, and
            all errors of `UniqueFeatures.of`. Errors of `loader` are raised unchanged, after the batches before them.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        feature_sets: Sequence[Sequence[str]] = (),
        *,
        num_embeddings: Mapping[str, int] | None = None,
        prefetch: int = 2,
        pin_memory: bool | None = None,
    ) -> None:
        if prefetch < 1:
            raise ValueError(f"prefetch must be at least 1, got {prefetch}")
        if isinstance(loader, DedupLoader):
            raise ValueError("DedupLoader expected a loader of plain batches, got a DedupLoader; wrap the loader once")
        self.loader, self.feature_sets, self.num_embeddings = loader, feature_sets, num_embeddings or {}
        self.prefetch = prefetch
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self._ahead: Ahead | None = None
        self._told: set[tuple[str, ...]] = set()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_ahead": None}  # a copy, such as one in a worker, has not begun to iterate

    def __len__(self) -> int:
        return len(cast(Any, self.loader))

    def __iter__(self) -> Iterator[Any]:
        ahead = self._ahead = Ahead(self.loader, self.deduplicate, self.prefetch)
        try:
            yield from ahead.batches()
        finally:
            ahead.stop()

    def state_dict(self, untrained: int = 0) -> dict[str, Any]:
        """The loader's `state_dict` after the last batch that was yielded.

        Args:
            untrained: number of yielded batches that are not trained yet, and have to come again. A pipeline has some:
                between two calls of `progress`, a `TrainPipelineSparseDist` has `len(pipeline.batches)`.

        Raises:
            TypeError: the loader has no position of its own.
            ValueError: `untrained` exceeds the batches of this pass over the loader, or 16.
        """
        self._check_has_position()
        if untrained < 0:
            raise ValueError(f"untrained: expected a number of batches, 0 or more, got {untrained}")
        if self._ahead is None or not (known := self._ahead.positions):  # nothing was yielded since start or load
            if untrained:
                raise ValueError(f"untrained: no batch has been handed out yet, got {untrained}")
            found = position_of(self.loader)
        elif untrained >= len(known):
            raise ValueError(
                f"untrained: expected at most {len(known) - 1}, got {untrained}; known are the batches of this pass, "
                f"at most the last {KEPT_POSITIONS}"
            )
        elif untrained == 0 and self._ahead.end is not None:
            found = self._ahead.end
        else:
            found = known[-1 - untrained]
        if isinstance(found, Failed):
            raise found.error
        assert found is not None
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration starts from `state`; a running one ends. Raises TypeError as `state_dict` does."""
        self._check_has_position()
        if self._ahead is not None:
            self._ahead.stop("its load_state_dict was called: iterate again")
            self._ahead = None
        cast(Any, self.loader).load_state_dict(state)

    def deduplicate(self, batch: Any) -> Any:
        """One batch, in the calling thread: for a `collate_fn` that runs in the workers of a DataLoader."""
        keys: list[str] = []
        left: dict[tuple[str, ...], str] = {}

        def change(features: Any) -> Any:
            if isinstance(features, UniqueFeatures):
                raise ValueError(
                    "DedupLoader: expected plain features, got UniqueFeatures: the batch is deduplicated already; "
                    "wrap the loader once, or leave `deduplicate` out of its collate_fn"
                )
            if not features.keys():
                return features
            if reason := why_not(features):
                left[tuple(features.keys())] = reason
                return features
            keys.extend(features.keys())
            sets = [of for of in self.feature_sets if set(of) & set(features.keys())]
            return UniqueFeatures.of(features, sets, self.num_embeddings, pin_memory=self.pin_memory)

        found = replace_inside(batch, (KeyedJaggedTensor, UniqueFeatures), change)
        if not keys:
            got = type(batch).__name__ + "".join(f"; {', '.join(of)}: {reason}" for of, reason in left.items())
            raise ValueError(f"DedupLoader: expected a batch that holds a KeyedJaggedTensor with keys, got {got}")
        for of, reason in left.items():
            if of not in self._told:
                self._told.add(of)
                _log.warning("%s: left as they are, for a collection that is not wrapped: %s", ", ".join(of), reason)
        in_sets = itertools.chain(*self.feature_sets)
        for argument, named in (("feature_sets", in_sets), ("num_embeddings", self.num_embeddings)):
            for key in (key for key in named if key not in keys):
                why = "".join(f"; {key!r} stays as it is: {reason}" for of, reason in left.items() if key in of)
                raise ValueError(f"{argument}: no key {key!r} in the batch; there are: {', '.join(keys)}{why}")
        return found

    def _check_has_position(self) -> None:
        if not (hasattr(self.loader, "state_dict") and hasattr(self.loader, "load_state_dict")):
            raise TypeError(
                "DedupLoader has the position of its loader: expected one with state_dict() and load_state_dict(), "
                f"such as torchdata's StatefulDataLoader, got a {type(self.loader).__name__}"
            )
