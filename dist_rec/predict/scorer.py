"""Batches through a model with the weights of a checkpoint: the forward pass of an evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from dist_rec.config import Config
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.embedding.cache import unlock_cached_rows
from dist_rec.predict.columns import Scores
from dist_rec.training.evaluate import served_model
from dist_rec.training.ranks import Ranks


class Scorer:
    """`width` is that of the features that the head of the model makes logits of.

    Raises ConfigError if the checkpoint is damaged or belongs to another model. Comm: as `load_checkpoint`."""

    def __init__(self, schema: Schema, config: Config, checkpoint: Path, ranks: Ranks) -> None:
        self.device = ranks.device
        self._model, self._called = served_model(schema, config, checkpoint, ranks)
        self._called.eval()
        self.width = self._model.ranker.head_width

    @torch.no_grad()
    def __call__(self, batch: HostBatch, *, embeddings: bool = False) -> Scores:
        """Every rank calls it, with an empty batch where it has no requests. Comm: the model's all-to-alls."""
        with _seen(self._model.ranker.head, wanted=embeddings) as features:
            _, (_, logits, _) = self._called(batch.to(self.device, non_blocking=True))
        unlock_cached_rows(self._called)
        return Scores(logits.cpu(), features[0].cpu() if features else None)  # host sync: they are written


@contextmanager
def _seen(head: nn.Module, *, wanted: bool) -> Iterator[list[Tensor]]:
    """What goes into the head, float32, if it is wanted."""
    found: list[Tensor] = []
    if not wanted:
        yield found
        return
    hook = head.register_forward_pre_hook(lambda module, given: found.append(given[0]))
    try:
        yield found
    finally:
        hook.remove()
