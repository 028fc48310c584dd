"""The configuration of a run: a YAML recipe plus `--set a.b=c`, checked by pydantic before anything starts.

One class per part. Every field has a default to start from and a description that says what it does;
`dist-rec train RECIPE --dry-run` prints the resolved whole. The options of each model:
dist_rec/models/<model>/config.py."""

import os.path
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from dist_rec.common.choices import Compress, CorrectionKind, DenseUpdate, Encoding, HashWhere
from dist_rec.common.ngram import NgramSpec
from dist_rec.common.open_ids import AdmissionConfig, EvictionConfig, IdKind
from dist_rec.common.strict import Folder, Size, Strict, check, check_distinct
from dist_rec.common.yaml_file import apply_override, read_yaml
from dist_rec.data.filter.config import FilterConfig
from dist_rec.distill.config import DistillConfig
from dist_rec.models.config import ModelConfig
from dist_rec.registry import FUSED_OPTIMIZERS, OPTIMIZERS, READERS, Part
from dist_rec.run_config import CheckpointConfig, InitConfig, ParallelConfig, RunConfig

Moment = Annotated[int, Field(ge=0)]  # seconds


class DataConfig(Strict):
    path: Folder = Field(description="Folder with schema.yaml and one sub-folder of Parquet files per split.")
    train: list[str] = Field(
        default=["train"], description="Sub-folders, with all below them, that form the training split."
    )
    valid: list[str] = Field(default=["valid"], description="Sub-folders that form the validation split; may be empty.")
    test: list[str] = Field(default=["test"], description="Sub-folders that form the test split; may be empty.")
    folds: list[str] = Field(
        default=[],
        description="Cross-validation: fold i is the test split, fold i+1 (cyclic) the validation split, the rest "
        "train. Replaces train, valid and test.",
    )
    windows: list[str] = Field(
        default=[],
        description="Sub-folders in order of time, such as days of a log: each is trained on, all epochs of it, after "
        "the model was judged on it. The last one is judged only. Replaces train and valid.",
    )
    batch_size: Size | None = Field(
        default=64, ge=1, description="Requests per rank and training step; null with batch_events."
    )
    batch_events: Size | None = Field(
        default=None,
        ge=1,
        description="In the place of batch_size: events of all sequences per rank and training step, at most so many "
        "up to about one request. Ranks then have about equally many events in every step, and batches differ in their "
        "number of requests. Steps are counted before max_length cuts sequences, so that batches hold less with it.",
    )
    eval_batch_size: Size = Field(
        default=128, ge=1, description="Requests per rank and evaluation step, also with batch_events."
    )
    shuffle_window: Size = Field(default=8192, ge=1, description="Requests that are shuffled among each other.")
    share_histories: bool = Field(
        default=False,
        description="Requests of a user within shuffle_window follow each other, so that a batch has fewer distinct "
        "ids. It trains worse where users have many requests in a window (docs/data.md).",
    )
    workers: Size | None = Field(
        default=None,
        ge=0,
        description="Reader processes per rank; 0 reads in the training process. By default 1, and with a GPU by the "
        "cores of each rank, up to 8. The order of the data depends on it.",
    )
    reader: Annotated[Part, AfterValidator(READERS.known)] = Field(
        default=Part(name="parquet"),
        description="Lists and reads the rows of a split: parquet, or a RowReader of one's own.",
    )
    unreadable: Literal["stop", "skip"] = Field(
        default="stop",
        description="What a row group does that cannot be read, or whose values are wrong: the run stops with its "
        "place, or leaves the whole row group out of training, says so and counts its requests.",
    )
    max_length: Size | None = Field(
        default=None, ge=1, description="Keep only the newest this many events of each sequence."
    )
    dedup: bool = Field(
        default=True,
        description="Make tokens unique on the host, so that repeated ones are moved and looked up once; false to "
        "compare.",
    )
    leave_out: list[str] = Field(
        default=[], description="Context fields of the schema that this run does not use, such as a raw user id."
    )
    observed_at: Moment | list[Moment] | None = Field(
        default=None,
        description="The moment of training in seconds: of labels that take time, of feedback and of requests, "
        "training knows what was known then. With windows a moment for each that is trained on, such as its end. "
        "null: it is later than everything.",
    )
    written_at: int | None = Field(
        default=None,
        ge=0,
        description="The moment up to which the files know labels, in seconds: labels whose horizon had not passed by "
        "then are counted nowhere, in evaluation, too. null: all labels of the files are final.",
    )
    filter: FilterConfig | None = Field(
        default=None, description="Which events and candidates are not trained on or not seen; null: none."
    )

    ngram: dict[str, NgramSpec | None] = Field(
        default={},
        description="N-grams of ids over events, by field, such as history.item, in the place of those that the schema "
        "declares; null: none.",
    )
    numbers: dict[str, Encoding] = Field(
        default={},
        description="Encodings of numbers, by field, such as history.price, context.distance or attributes.item.year, "
        "in the place of those that the schema declares.",
    )
    hash_ngrams: HashWhere = Field(
        default="auto",
        description="Where ids of n-grams are made: host, in the reader processes; device, from the ids that are sent "
        "anyway. auto: on a GPU whose tables of n-grams lie on it, otherwise on the host.",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_default_beside_events(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and tree.get("batch_events") is not None and "batch_size" not in tree:
            return tree | {"batch_size": None}
        return tree

    @model_validator(mode="before")
    @classmethod
    def _windows_are_splits(cls, tree: Any) -> Any:
        windows = tree.get("windows") if isinstance(tree, dict) else None
        if not isinstance(windows, list) or not windows:
            return tree
        if len(windows) < 2:
            raise ValueError(f"windows needs at least 2 names, one to train on and one to judge, got {windows}")
        made = {"train": windows[:-1], "valid": []}
        for name, folders in made.items():
            if name in tree and tree[name] != folders:
                raise ValueError(f"windows replaces {name}; expected no {name} beside it, got {tree[name]}")
        return {"test": [], **tree, **made}

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        check_distinct("windows", self.windows, "a window is trained on once")
        if self.windows and self.folds:
            raise ValueError("expected either windows or folds, got both")
        if isinstance(self.observed_at, list):
            self._check_moments(self.observed_at)
        if (self.batch_size is None) == (self.batch_events is None):
            got = f"batch_size={self.batch_size} and batch_events={self.batch_events}"
            raise ValueError(f"expected either batch_size or batch_events, and null for the other, got {got}")
        if self.folds and len(self.folds) < 3:
            raise ValueError(f"folds needs at least 3 names (test, validation, training), got {self.folds}")
        if not self.folds and not self.train:
            raise ValueError("train needs at least one sub-folder, got none")
        splits = {"folds": self.folds} if self.folds else {"train": self.train, "valid": self.valid, "test": self.test}
        splits |= {"windows": self.windows[-1:]}
        for name, folders in splits.items():
            check_distinct(name, [os.path.normpath(folder) for folder in folders], "its rows would be read twice")
        check_distinct("leave_out", self.leave_out, "a field is left out once")
        named = {Path(os.path.normpath(folder)) for folders in splits.values() for folder in folders}
        for folder in sorted(named):
            if inside := sorted(other for other in named if folder in other.parents):
                raise ValueError(
                    f"'{inside[0]}' lies inside '{folder}', whose rows are read with all sub-folders; name one of them"
                )
        return self

    def _check_moments(self, moments: list[int]) -> None:
        if len(moments) != len(self.windows) - 1:
            trained = f"each of the {len(self.windows) - 1} windows that are trained on" if self.windows else "windows"
            raise ValueError(f"observed_at: expected a moment for {trained}, got {len(moments)} moments")
        for before, after in pairwise(moments):
            if after < before:
                raise ValueError(f"observed_at: expected moments in order of time, got {before} and then {after}")


# FBGEMM's fused tables are at most so wide on a GPU; for a wider one it looks up zeros there without a word.
RowWidth = Annotated[int, Field(ge=4, le=1024, multiple_of=4)]


class TableConfig(Strict):
    """What one embedding table may override."""

    dim: RowWidth | None = Field(default=None, description="Width of a row.")
    sharding: list[Literal["data_parallel", "table_wise", "column_wise", "row_wise"]] | None = Field(
        default=None, description="Sharding types the planner may choose from; data_parallel alone."
    )
    kernel: list[Literal["dense", "fused", "fused_uvm", "fused_uvm_caching"]] | None = Field(
        default=None,
        description="Compute kernels the planner may choose from. fused_uvm_caching: rows in host memory, a cache on "
        "the GPU.",
    )
    cache_fraction: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="With fused_uvm_caching: share of the rows that the cache holds; 0.2 if not said.",
    )
    rows: Size | None = Field(
        default=None, ge=1, description="How many ids the table holds, in the place of the schema's number."
    )
    ids: IdKind | None = Field(
        default=None,
        description="range: ids are 0 to rows - 1. hashed: any 64-bit id, by a hash. dynamic: any 64-bit id, each in a "
        "row of its own while it is in use. null: as the schema says.",
    )
    eviction: EvictionConfig | None = Field(
        default=None, description="Of dynamic ids: whose row a new id takes; by default lru."
    )
    admission: AdmissionConfig | None = Field(
        default=None, description="Of dynamic ids: when a new id gets a row; by default at once."
    )

    @model_validator(mode="after")
    def _check(self) -> "TableConfig":
        if self.cache_fraction is not None and "fused_uvm_caching" not in (self.kernel or []):
            raise ValueError(
                f"cache_fraction={self.cache_fraction} needs kernel: [fused_uvm_caching], got {self.kernel}"
            )
        if self.sharding and "data_parallel" in self.sharding and (len(self.sharding) > 1 or self.kernel):
            raise ValueError(
                f"a data_parallel table is not planned: expected sharding: [data_parallel] alone, got {self.sharding}, "
                f"kernel {self.kernel}"
            )
        return self


class EmbeddingConfig(Strict):
    dim: RowWidth = Field(default=16, description="Width of a row, for tables that say nothing else.")
    optimizer: Annotated[Part, AfterValidator(FUSED_OPTIMIZERS.known)] = Field(
        default=Part(name="rowwise_adagrad"),
        description="Applied inside the backward: rowwise_adagrad, adam, sgd, or a FusedOptimizer of one's own.",
    )
    lr: float = Field(default=0.05, gt=0.0, description="Learning rate of the rows; constant.")
    eps: float = Field(default=1e-8, gt=0.0, description="Added to the denominator of Adagrad and Adam.")
    weight_decay: float = Field(
        default=0.0, ge=0.0, description="Decoupled, of the rows that a step touches; rowwise_adagrad only."
    )
    init_scale: float = Field(default=0.05, gt=0.0, description="Rows start uniform in +-init_scale.")
    tables: dict[str, TableConfig] = Field(default={}, description="Overrides per table.")

    def dim_of(self, table: str) -> int:
        """Width of a table's rows."""
        override = self.tables.get(table)
        return self.dim if override is None or override.dim is None else override.dim

    @property
    def ids(self) -> dict[str, tuple[int | None, IdKind | None]]:
        """Tables whose number or kind of ids a recipe changes."""
        changed = {name: of for name, of in self.tables.items() if (of.rows, of.ids) != (None, None)}
        return {name: (of.rows, of.ids) for name, of in changed.items()}

    def kernels_of(self, table: str) -> list[str]:
        """The compute kernels that a recipe names for a table; empty if it names none."""
        override = self.tables.get(table)
        return [] if override is None else list(override.kernel or [])

    def is_replicated(self, table: str) -> bool:
        """Whether every rank holds the whole table."""
        override = self.tables.get(table)
        return override is not None and override.sharding == ["data_parallel"]


class OptimConfig(Strict):
    dense_update: DenseUpdate = Field(
        default="delayed",
        description="sync: DDP, W_k = W_{k-1} + g_k. delayed: the all-reduce of g_k is waited for one step later.",
    )
    warmup_sync_steps: Size = Field(
        default=1000, ge=0, description="With delayed: this many first steps apply their own gradient at once."
    )
    correction: CorrectionKind = Field(
        default="none", description="Correction of delayed gradients, see dist_rec/optim/correction.py."
    )
    delayed_lr_factor: float = Field(
        default=1.0, gt=0.0, le=1.0, description="Factor of the learning rate of delayed updates."
    )
    compress: Compress = Field(
        default="none", description="bf16: fp32 gradients travel in bf16; what rounding takes is added to the next one."
    )
    bucket_cap_mb: float = Field(default=25.0, gt=0.0, description="Largest bucket of the dense all-reduce, in MB.")
    accumulation_steps: Size = Field(
        default=1, ge=1, description="Batches per dense update; sparse rows are updated by every batch."
    )
    skip_nonfinite: bool = Field(
        default=True, description="Drop a dense gradient with an infinity or a NaN, on all ranks alike."
    )
    optimizer: Annotated[Part, AfterValidator(OPTIMIZERS.known)] = Field(
        default=Part(name="adamw"),
        description="Of the dense parameters: adamw, adam, adagrad, sgd, muon, or a DenseOptimizer of one's own. muon: "
        "for matrices, at AdamW's scale; AdamW for the rest: vectors and the 3-D weights of per-token layers, which "
        "torch's Muon does not take.",
    )
    lr: float = Field(default=1e-3, gt=0.0, description="Learning rate at its highest.")
    betas: tuple[float, float] = Field(
        default=(0.9, 0.999), description="Of Adam, of AdamW and of the AdamW beside Muon."
    )
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0, description="Of SGD (Muon has its own, 0.95).")
    weight_decay: float = Field(
        default=0.01, ge=0.0, description="Decoupled in AdamW and Muon, added to the gradient elsewhere."
    )
    clip_norm: float | None = Field(default=1.0, gt=0.0, description="Largest norm of the reduced dense gradient.")
    warmup_steps: Size = Field(
        default=0, ge=0, description="Linear warm-up of the dense learning rate, in applied updates."
    )
    decay: Literal["none", "linear", "cosine"] = Field(
        default="cosine", description="Of the learning rate after its warm-up."
    )
    final_lr_fraction: float = Field(
        default=0.05, ge=0.0, le=1.0, description="Learning rate at the last step, relative to lr."
    )


class Config(Strict):
    """A whole run."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    optim: OptimConfig = OptimConfig()
    parallel: ParallelConfig = ParallelConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    run: RunConfig = RunConfig()
    init: InitConfig | None = Field(
        default=None, description="The weights of a checkpoint that a new run starts from; null: none."
    )
    distill: DistillConfig | None = Field(
        default=None, description="A teacher that sees feedback and teaches the model that does not; null: none."
    )

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.data.windows and self.optim.accumulation_steps > 1:
            raise ValueError(
                "data.windows: a window is judged between two updates; expected optim.accumulation_steps: 1, got "
                f"{self.optim.accumulation_steps}"
            )
        return self


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Reads a recipe and applies `a.b=value` overrides (values are YAML).

    Raises ConfigError naming the key, its place, the nearest right key, what was expected and what came.
    """
    path = Path(path)
    tree = read_yaml(path)
    for override in overrides or []:
        apply_override(tree, override)
    return check(Config, tree, str(path))
