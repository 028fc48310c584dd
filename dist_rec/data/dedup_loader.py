"""`DedupLoader`: any loader's batches with their `KeyedJaggedTensor`s deduplicated on the host, off the training
thread."""

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

    A batch may be a `KeyedJaggedTensor` itself, or hold some at any depth: in tuples, lists, dicts, dataclasses,
    pydantic models or objects of your own (`replace_inside` says what is looked into). Whatever holds one is copied,
    never changed. Features with weights, a stride per key or a key more than once cannot be deduplicated: beside others
    they stay as they are, which is logged once. The work is done by a thread of its own, which keeps `prefetch` batches
    ready; hashing runs without Python's lock, so the training thread is not held up. The order of the batches is that
    of `loader`. Whoever leaves early waits for the thread to end, up to 5 s where `loader` is slow to give its next
    batch.

    A loader with `state_dict` and `load_state_dict`, such as torchdata's `StatefulDataLoader`, keeps them here, for the
    batches that were handed out and not for those that were read ahead: it is asked for its state behind every batch.
    What is saved is the loader's own state, so it loads into the loader alone as well.

    Args:
        loader: any iterable of batches in host memory. If it pins memory itself, its own tensors stay pinned.
        feature_sets: keys to deduplicate together, such as `[["item", "category"]]`: they have the same lengths in
            every sample and share one inverse index. Every other key is deduplicated alone.
        num_embeddings: key -> number of rows of its table, so that ids cross in the smallest integer that holds it.
            Without it the largest id of each batch decides.
        prefetch: batches ready ahead, at least 1.
        pin_memory: whether deduplicated features are pinned, so that they cross without waiting; by default, if there
        is a GPU.

    Raises:
        ValueError: (while iterating) a batch in which nothing can be deduplicated, or that is deduplicated already, and
            what `UniqueFeatures.of` refuses. Errors of `loader` are raised as they are, behind the batches before them.
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
        return vars(self) | {"_ahead": None}  # a copy, such as that in a worker, has not begun to iterate

    def __len__(self) -> int:
        return len(cast(Any, self.loader))

    def __iter__(self) -> Iterator[Any]:
        ahead = self._ahead = Ahead(self.loader, self.deduplicate, self.prefetch)
        try:
            yield from ahead.batches()
        finally:
            ahead.stop()

    def state_dict(self, untrained: int = 0) -> dict[str, Any]:
        """Where to go on: the loader's `state_dict` as it was behind the last batch that was handed out.

        Args:
            untrained: how many of the batches that were handed out are not trained yet, and are to come again. A
            pipeline
                holds some: between two calls of `progress`, a `TrainPipelineSparseDist` holds `len(pipeline.batches)`.

        Raises:
            TypeError: the loader has no position of its own.
            ValueError: more than were handed out since this pass over the loader began, or than the last 16.
        """
        self._check_has_position()
        if untrained < 0:
            raise ValueError(f"untrained: expected a number of batches, 0 or more, got {untrained}")
        known = self._ahead.positions if self._ahead is not None else []
        if not known:  # nothing was handed out since the start, or since a state was loaded
            if untrained:
                raise ValueError(f"untrained: no batch has been handed out yet, got {untrained}")
            found = position_of(self.loader)
        elif untrained >= len(known):
            raise ValueError(
                f"untrained: expected at most {len(known) - 1}, got {untrained}; known are the batches of this pass, "
                "at most "
                f"the last {KEPT_POSITIONS}"
            )
        else:
            assert self._ahead is not None
            ended = self._ahead.end if untrained == 0 else None
            found = known[-1 - untrained] if ended is None else ended
        if isinstance(found, Failed):
            raise found.error
        assert found is not None
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration goes on from there; one that is under way is over. Raises TypeError as `state_dict`
        does."""
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
                    "wrap the "
                    "loader once, or leave `deduplicate` out of its collate_fn"
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
            why = "".join(f"; {', '.join(of)}: {reason}" for of, reason in left.items())
            raise ValueError(
                "DedupLoader: expected a batch that holds a KeyedJaggedTensor with keys, got "
                f"{type(batch).__name__}{why}"
            )
        self._tell(left)
        for argument, named in (
            ("feature_sets", itertools.chain(*self.feature_sets)),
            ("num_embeddings", self.num_embeddings),
        ):
            for key in named:
                if key in keys:
                    continue
                why = "".join(f"; {key!r} stays as it is: {reason}" for of, reason in left.items() if key in of)
                raise ValueError(f"{argument}: no key {key!r} in the batch; there are: {', '.join(keys)}{why}")
        return found

    def _tell(self, left: dict[tuple[str, ...], str]) -> None:
        for keys, reason in left.items():
            if keys not in self._told:
                self._told.add(keys)
                _log.warning("%s: left as they are, for a collection that is not wrapped: %s", ", ".join(keys), reason)

    def _check_has_position(self) -> None:
        if not (hasattr(self.loader, "state_dict") and hasattr(self.loader, "load_state_dict")):
            raise TypeError(
                "DedupLoader has the position of its loader: expected one with state_dict() and load_state_dict(), "
                "such as "
                f"torchdata's StatefulDataLoader, got a {type(self.loader).__name__}"
            )
