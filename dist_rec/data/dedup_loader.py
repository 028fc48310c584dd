"""`DedupLoader`: any loader's batches with their `KeyedJaggedTensor`s deduplicated on the host, off the training thread."""

import copy
import itertools
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, cast

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data.unique_features import UniqueFeatures


@dataclass(frozen=True)
class _Failed:
    error: BaseException


_END = object()
STOP_S = 5.0  # that leaving early waits for the thread


class DedupLoader:
    """Yields the batches of `loader` with every `KeyedJaggedTensor` replaced by `UniqueFeatures`.

    A batch may be a `KeyedJaggedTensor` itself, or a tuple, list, dict, dataclass or other object that holds some; objects are
    copied, never changed. The work is done by a thread of its own, which keeps `prefetch` batches ready; hashing runs
    without Python's lock, so the training thread is not held up. The order of the batches is that of `loader`.

    Args:
        loader: any iterable of batches in host memory. If it pins memory itself, its own tensors stay pinned.
        token_sets: keys of a token, such as `[["item", "category"]]`: keys with the same lengths in every sample that are
            deduplicated together and share one inverse index. Every other key is deduplicated alone.
        num_embeddings: key -> number of rows of its table, so that ids cross in the narrowest integer that holds it. Without
            it the largest id of each batch decides.
        prefetch: batches ready ahead, at least 1.
        pin_memory: whether deduplicated features are pinned, so that they cross without waiting; by default, if there is a GPU.

    Raises:
        ValueError: (while iterating) a batch without a `KeyedJaggedTensor`, and what `UniqueFeatures.of` refuses.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        token_sets: Sequence[Sequence[str]] = (),
        *,
        num_embeddings: Mapping[str, int] | None = None,
        prefetch: int = 2,
        pin_memory: bool | None = None,
    ) -> None:
        if prefetch < 1:
            raise ValueError(f"prefetch must be at least 1, got {prefetch}")
        self.loader, self.token_sets, self.num_embeddings = loader, token_sets, num_embeddings or {}
        self.prefetch = prefetch
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory

    def __len__(self) -> int:
        return len(cast(Any, self.loader))

    def __iter__(self) -> Iterator[Any]:
        ready: queue.Queue[Any] = queue.Queue(maxsize=self.prefetch)
        stopped = threading.Event()
        worker = threading.Thread(target=self._work, args=(ready, stopped), name="DedupLoader", daemon=True)
        worker.start()
        try:
            while (batch := ready.get()) is not _END:
                if isinstance(batch, _Failed):
                    raise batch.error
                yield batch
        finally:
            # The worker may wait for room; if it waits for its loader instead, it ends with the next batch or the process.
            stopped.set()
            given_up = time.monotonic() + STOP_S
            while worker.is_alive() and time.monotonic() < given_up:
                try:
                    ready.get(timeout=0.01)
                except queue.Empty:
                    pass

    def deduplicate(self, batch: Any) -> Any:
        """One batch, in the calling thread: for a `collate_fn` that runs in the workers of a DataLoader."""
        keys: list[str] = []
        found = self._replace(batch, keys)
        if not keys:
            raise ValueError(
                f"DedupLoader: expected a batch that holds a KeyedJaggedTensor with keys, got {type(batch).__name__}"
            )
        for argument, named in (("token_sets", itertools.chain(*self.token_sets)), ("num_embeddings", self.num_embeddings)):
            for key in named:
                if key not in keys:
                    raise ValueError(f"{argument}: no key {key!r} in the batch; there are: {', '.join(keys)}")
        return found

    def _work(self, ready: "queue.Queue[Any]", stopped: threading.Event) -> None:
        try:
            for batch in self.loader:
                if stopped.is_set():
                    return
                ready.put(self.deduplicate(batch))
            ready.put(_END)
        except BaseException as error:  # raised again where the batches are consumed
            ready.put(_Failed(error))

    def _replace(self, value: Any, keys: list[str]) -> Any:
        """`value` with every KeyedJaggedTensor inside replaced, itself where there is none; adds their keys to `keys`."""
        if isinstance(value, KeyedJaggedTensor):
            keys += value.keys()
            sets = [of for of in self.token_sets if set(of) & set(value.keys())]
            return UniqueFeatures.of(value, sets, self.num_embeddings, pin_memory=self.pin_memory)
        if isinstance(value, dict):
            changed = {key: self._replace(item, keys) for key, item in value.items()}
            return value if all(item is value[key] for key, item in changed.items()) else changed
        if isinstance(value, tuple | list):
            items = [self._replace(item, keys) for item in value]
            if all(new is old for new, old in zip(items, value, strict=True)):
                return value
            # A namedtuple takes its fields one by one.
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if isinstance(value, torch.Tensor | type) or not hasattr(value, "__dict__"):
            return value
        held = {f.name: getattr(value, f.name) for f in fields(value)} if is_dataclass(value) else vars(value)
        new = {name: self._replace(item, keys) for name, item in held.items() if _may_hold(item)}
        new = {name: item for name, item in new.items() if item is not held[name]}
        if not new:
            return value
        twin = copy.copy(value)
        for name, item in new.items():
            object.__setattr__(twin, name, item)  # frozen dataclasses, too
        return twin


def _may_hold(value: Any) -> bool:
    """Containers and KeyedJaggedTensors; other objects inside a batch are left alone."""
    return isinstance(value, KeyedJaggedTensor | dict | tuple | list) or (is_dataclass(value) and not isinstance(value, type))
