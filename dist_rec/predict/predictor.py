"""A model from a checkpoint, to be called in a process of one's own: `load_model(checkpoint).predict(requests)`."""

import threading
from pathlib import Path
from types import TracebackType
from typing import Literal

import pyarrow as pa
import torch

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config, ParallelConfig, load_config
from dist_rec.data.attribute_store import open_attributes
from dist_rec.data.collate import Collator
from dist_rec.data.columns import arrow_schema
from dist_rec.data.filter.event_filter import make_filter
from dist_rec.data.plan import Rows
from dist_rec.predict.alone import SHARED
from dist_rec.predict.columns import More, prediction_schema, prediction_table
from dist_rec.predict.parts import Parts
from dist_rec.predict.rows import Requests, valid_rows
from dist_rec.predict.scorer import Scorer
from dist_rec.training.made_with import MadeWith
from dist_rec.training.manifest import check_sums
from dist_rec.training.ranks import Ranks
from dist_rec.training.splits import hashes_on_device

Device = Literal["auto", "cpu", "cuda"]
BACKENDS = {"auto": "auto", "cpu": "gloo", "cuda": "nccl"}


class Predictor:
    """Made by `load_model`. Threads may share one; their requests are computed one call after the other.

    - `tasks`: the labels, in the order of the columns
    - `columns`: names and Arrow types of what a request has. Other integer types, and more columns such as labels, are
      fine; histories that a dataset stores once are lists here as all others
    """

    def __init__(self, collator: Collator, scorer: Scorer, batch: int) -> None:
        self._collator, self._scorer, self._batch = collator, scorer, batch
        self._lock, self._is_open = threading.Lock(), True
        self.tasks: list[str] = list(collator.schema.candidate.labels)
        self.columns: pa.Schema = arrow_schema(collator.schema)

    def predict(self, requests: Requests, *, logits: bool = False, embeddings: bool = False) -> pa.Table:
        """Probabilities of all candidates.

        Args:
            requests: a pyarrow.Table with the columns of `columns`, or a list of one dict per request with these keys.
                None of them are fine, and so is a request without candidates.
            logits: whether to add columns `logit.<task>`.
            embeddings: whether to add `embedding.candidate`: the features of each candidate before the head.

        Returns:
            One row per request, in their order: `request.row` int64 from 0 on, grouping key, request time if the data
            have one, `candidate.<field>` ids, and `probability.<task>`: lists of float32, one entry per candidate.

        Raises:
            DataError: a request is not as the schema says; row and field are named.
            ValueError: the predictor is closed.
        """
        schema, more = self._collator.schema, More(logits, embeddings)
        rows = valid_rows(requests, schema)
        found = [prediction_schema(schema, more, self._scorer.width).empty_table()]
        with self._lock:
            if not self._is_open:
                raise ValueError("expected an open predictor, got one after its close()")
            for part in Parts(rows.num_rows, self._batch, self._batch).batches_of_all():
                found.append(self._of(rows, part, more))
        return pa.concat_tables(found).combine_chunks()

    def _of(self, rows: pa.Table, part: Rows, more: More) -> pa.Table:
        some = rows.slice(part.first, part.count).combine_chunks()
        scores = self._scorer(self._collator(some), embeddings=more.embeddings)
        return prediction_table(some, part.first, scores, self._collator.schema, more)

    def close(self) -> None:
        """Gives the process group of one rank back, which the process has as long as a predictor is open. May be
        called again."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                SHARED.leave()

    def __enter__(self) -> "Predictor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_model(
    checkpoint: str | Path,
    config: Config | str | Path | None = None,
    *,
    data: str | Path | None = None,
    device: Device = "auto",
) -> Predictor:
    """A model with the weights of a checkpoint, in this process alone, without torchrun.

    Args:
        checkpoint: a folder of a run, such as runs/quickstart/checkpoints/last, saved by any number of ranks.
        config: a recipe, or the path of its YAML file; None: that of the checkpoint. Needed where the checkpoint's
            names parts of one's own, since nothing that a checkpoint names is imported.
        data: dataset folder whose attributes of ids are read, if the schema declares some; None: the recipe's.
        device: cpu, cuda, or auto: a GPU if there is one. All open predictors of a process use one kind.

    Raises:
        ConfigError: the checkpoint is none, is damaged, or does not fit the recipe; the device is not there; the
            process is one of several ranks.
        DataError: attributes of ids, or a file of ids that a filter reads, cannot be read.
    """
    checkpoint = Path(checkpoint)
    made = MadeWith.read(checkpoint)
    if config is None:
        config = _without_paths(made.recipe, checkpoint)
    elif not isinstance(config, Config):
        config = load_config(config)
    parallel = config.parallel.model_dump() | {"backend": BACKENDS[device]}
    ranks = SHARED.enter(ParallelConfig.model_validate(parallel))
    try:
        if config.checkpoint.verify:
            check_sums(checkpoint, ranks.host_group)
        if config.run.deterministic:
            torch.use_deterministic_algorithms(True)
        with torch.random.fork_rng():  # first weights are drawn before those of the checkpoint come
            return _made(checkpoint, made, config, data, ranks)
    except BaseException:
        SHARED.leave()
        raise


def _made(checkpoint: Path, made: MadeWith, config: Config, data: str | Path | None, ranks: Ranks) -> Predictor:
    saved = made.schema_.with_feedback(None)
    schema = made.schema_for(saved, config, checkpoint).as_served().without_labels()
    collator = Collator(
        schema=schema.with_copies(),
        max_length=config.data.max_length,
        dedup=config.data.dedup,
        event_filter=make_filter(config.data.filter, saved, training=False),
        hash_ngrams=not hashes_on_device(config, schema, ranks.device),
        attributes=open_attributes(config.data.path if data is None else data, schema),
    )
    return Predictor(collator, Scorer(schema, config, checkpoint, ranks), config.data.eval_batch_size)


def _without_paths(recipe: Config, checkpoint: Path) -> Config:
    """The recipe of a checkpoint. Raises ConfigError if it names parts that would have to be imported to predict."""
    named = {"model.name": recipe.model.name, "model.head.loss": recipe.model.head.loss.name}
    if recipe.data.filter is not None:
        named["data.filter.policy"] = recipe.data.filter.policy.name
    if own := ", ".join(f"{key}={name}" for key, name in named.items() if ":" in name):
        raise ConfigError(
            f"{checkpoint}: made with parts that are not dist_rec's: {own}; nothing that a checkpoint names is "
            "imported, so give the recipe: load_model(checkpoint, config)"
        )
    return recipe
