"""The configuration of a run: a YAML recipe plus `--set a.b=c`, checked by pydantic before anything starts.

One class per part. Every field has a default to start from and a description that says what it does;
`dist-rec train RECIPE --dry-run` prints the resolved whole.
"""

import codecs
import difflib
import os.path
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

Precision = Literal["auto", "fp32", "bf16"]
Global = Literal["candidate", "user", "cls"]
Part = Literal["tokens", "inner", "cross", "self", "encoders", "decoders", "mixer"]
HeadInput = Literal["globals", "sequence_mean", "mixed", "mixed_queries", "mixed_mean", "context", "candidate"]
QueryInput = Literal["non_sequential", "candidate", "pools"]


T = TypeVar("T", bound="Strict")


def folder_name(path: str) -> str:
    """The path with ~ as the home folder. Raises ValueError if no folder can have this name."""
    if "\0" in path:
        raise ValueError(f"expected a path without zero bytes, got {path!r}")
    return os.path.expanduser(path)


def _one_name(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"expected the name of one folder, without '/', got {name!r}")
    return name


Size = Annotated[int, Field(le=2**31 - 1)]
Width = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Folder = Annotated[str, AfterValidator(folder_name)]


class ConfigError(ValueError):
    """A recipe, an override or a schema is wrong; the message says which key, where, what was expected and what came."""


class Strict(BaseModel):
    """Base of every declared structure: unknown keys are errors, numbers are finite, values do not change after creation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """What YAML reads as true or false would pass as 1 or 0."""
        entries = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        kinds = set(_leaves(cls.model_fields[info.field_name or ""].annotation))
        if kinds & {int, float} and bool not in kinds and (wrong := [entry for entry in entries if isinstance(entry, bool)]):
            raise ValueError(f"expected a number, got {wrong[0]} (what yes, no, on and off are in YAML, too)")
        return value


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types that a field's annotation is made of."""
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for part in inner:
        yield from _leaves(part)


class DataConfig(Strict):
    path: Folder = Field(description="Folder with schema.yaml and one sub-folder of Parquet files per split.")
    train: list[str] = Field(default=["train"], description="Sub-folders, with all below them, that form the training split.")
    valid: list[str] = Field(default=["valid"], description="Sub-folders that form the validation split; may be empty.")
    test: list[str] = Field(default=["test"], description="Sub-folders that form the test split; may be empty.")
    folds: list[str] = Field(
        default=[],
        description="Cross-validation: fold i is the test split, fold i+1 (cyclic) the validation split, the rest train. "
        "Replaces train, valid and test.",
    )
    batch_size: Size = Field(default=64, ge=1, description="Requests per rank and step.")
    eval_batch_size: Size = Field(default=128, ge=1, description="Requests per rank and evaluation step.")
    shuffle_window: Size = Field(default=8192, ge=1, description="Requests that are shuffled among each other.")
    workers: Size = Field(default=1, ge=0, description="Reader processes per rank; 0 reads in the training process.")
    max_length: Size | None = Field(default=None, ge=1, description="Keep only the newest this many events of each sequence.")
    dedup: bool = Field(
        default=True,
        description="Make tokens unique on the host, so that repeated ones are moved and looked up once; false to compare.",
    )
    leave_out: list[str] = Field(
        default=[], description="Context fields of the schema that this run does not use, such as a raw user id."
    )

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if self.folds and len(self.folds) < 3:
            raise ValueError(f"folds needs at least 3 names (test, validation, training), got {self.folds}")
        if not self.folds and not self.train:
            raise ValueError("train needs at least one sub-folder, got none")
        splits = {"folds": self.folds} if self.folds else {"train": self.train, "valid": self.valid, "test": self.test}
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


class TokenConfig(Strict):
    """Event tokens: `x_t = MLP([(e_t + p_t) ; tau(dt_t) ; dynamic fields])` (LONGER, section 3.4)."""

    width: Size = Field(default=32, ge=4, description="d: width of an event token before merging.")
    hidden: Size = Field(default=64, ge=4, description="Hidden width of the token MLP.")
    position: Literal["recency", "absolute", "none"] = Field(
        default="recency",
        description="Learned position counted from the newest event (recency), from the oldest (absolute), or none.",
    )
    max_positions: Size = Field(
        default=2048, ge=1, description="Positions with their own embedding; farther events share the last one."
    )
    time_buckets: Size = Field(default=64, ge=2, description="Buckets of the time difference, two per doubling.")
    time_dim: Size = Field(default=8, ge=1, description="Width of the time-difference embedding tau.")
    dynamic_dim: Size = Field(default=8, ge=1, description="Width of the embedding of each dynamic field.")


class LongerConfig(Strict):
    """LONGER (arXiv 2505.04421). Defaults follow its published main model, scaled to a small machine where it is silent."""

    merge: Size = Field(default=4, ge=1, description="K: adjacent events merged into one token; merged width is K * d.")
    inner_trans: bool = Field(default=True, description="A transformer block inside each merged group (InnerTrans).")
    inner_heads: Size = Field(default=2, ge=1, description="Heads of InnerTrans at width d.")
    k: Size = Field(default=32, ge=0, description="Query rows from the sequence, in merged tokens; 0 takes all of them.")
    queries: Literal["recent", "uniform", "learnable", "mixed"] = Field(
        default="recent",
        description="Which rows query: the newest k, k evenly spaced, k learned, or half newest and half evenly spaced.",
    )
    globals: list[Global] = Field(
        default=["candidate", "user"],
        min_length=1,
        description="Global tokens of a candidate, in order; a later one sees the earlier ones.",
    )
    self_layers: Size = Field(default=1, ge=0, description="N: self-causal layers after the cross-causal one.")
    heads: Size = Field(default=4, ge=1, description="Attention heads at the merged width.")
    ffn_expansion: Size = Field(default=4, ge=1, description="Width of the feed-forward layer over the merged width.")
    rotary: bool = Field(
        default=False, description="Rotate queries and keys by their position (relative positions); not in the paper."
    )
    dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="Dropout on token embeddings and on both residual branches."
    )


class DinConfig(Strict):
    """DIN-style target attention: an activation unit weighs every event against the candidate, weights are not normalised."""

    hidden: Size = Field(default=32, ge=1, description="Hidden width of the activation unit.")
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout on token embeddings.")


class PoolConfig(Strict):
    """The sum of the event tokens divided by their number: the baseline without attention."""

    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout on token embeddings.")


class NonSequentialConfig(Strict):
    """Context and candidate features as M tokens, for HyFormer and RankMixer."""

    split: Size | None = Field(
        default=None,
        ge=1,
        description="Cut the concatenated features into this many equal slices, one token each; by default every group of "
        "the schema is a token.",
    )


class RankMixerConfig(Strict):
    """RankMixer (arXiv 2507.15551) over the non-sequential tokens and one token per sequence summary."""

    width: Size = Field(default=64, ge=4, description="D: width of a token; a multiple of the number of tokens T.")
    layers: Size = Field(default=2, ge=1, description="Blocks of token mixing and per-token feed-forward layer.")
    expansion: Size = Field(default=4, ge=1, description="k: width of the per-token feed-forward layer over D.")
    per_token: bool = Field(default=True, description="Own feed-forward weights for every token position; false shares them.")
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout on the feed-forward branch.")


class HyFormerSequence(Strict):
    """How HyFormer treats one sequence (arXiv 2601.12681, sections 3.4 and 3.7)."""

    encoder: Literal["full", "longer", "swiglu"] = Field(
        default="longer",
        description="full: a transformer layer over all events. longer: in the first layer the newest events look at all, "
        "later layers stay with them; with fewer events than `recent` the same as full. swiglu: no attention.",
    )
    recent: Size = Field(default=128, ge=1, description="L_H: newest events that ask, of encoder: longer.")
    causal: bool = Field(
        default=False, description="Events of full and longer see only older ones; needed with candidates' own `seen`."
    )
    queries: Size = Field(default=1, ge=1, description="N_s: query tokens of this sequence.")


class HyFormerConfig(Strict):
    """HyFormer (arXiv 2601.12681). Its width D is `tokens.width`, a multiple of T = all query tokens + M.

    Where the paper is silent or says two things, the default is our reading and the field the other one.
    """

    layers: Size = Field(default=2, ge=1, description="Layers of encoding, query decoding and query boosting.")
    heads: Size = Field(default=4, ge=1, description="Attention heads of encoders and decoders.")
    ffn_expansion: Size = Field(default=4, ge=1, description="Feed-forward (and SwiGLU) width of the encoders over D.")
    mixer_expansion: Size = Field(default=4, ge=1, description="k: width of the per-token feed-forward layer over D.")
    query_expansion: Size = Field(default=4, ge=1, description="Hidden width of each query's feed-forward layer over D.")
    sequences: dict[str, HyFormerSequence] = Field(default={}, description="By sequence name; defaults for those not named.")
    query_inputs: list[QueryInput] = Field(
        default=["non_sequential", "pools"],
        min_length=1,
        description="What queries are made of: all non-sequential tokens (or those with candidate fields), pooled sequences.",
    )
    pools: Literal["all", "own"] = Field(
        default="all", description="Whether a query is made from the pools of all sequences or of its own only."
    )
    encode_from: Literal["previous", "input"] = Field(
        default="previous", description="What a layer's encoder reads: the last layer's encoding H_(l-1), or the tokens S."
    )
    evolve_non_sequential: bool = Field(
        default=True, description="Boosted non-sequential tokens go on to the next layer; false puts the first ones in again."
    )
    per_token: bool = Field(default=True, description="Own feed-forward weights for every token position; false shares them.")
    rankmixer_block: bool = Field(
        default=False, description="Query boosting with RankMixer's two residuals and post-norms instead of one and pre-norm."
    )
    merge_sequences: bool = Field(
        default=False,
        description="Join all sequences, in the order of the schema, into one with the settings of the first; to compare. "
        "Newest events of the joined sequence are those at its end: of the schema's last sequence.",
    )
    rotary: bool = Field(
        default=False, description="Rotate queries and keys by their position (relative positions); not in the paper."
    )
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout on token embeddings and on every residual branch.")


class HeadConfig(Strict):
    hidden: list[Width] = Field(
        default=[256, 128], description="Widths of each task's MLP over the concatenated inputs; one output follows."
    )
    inputs: list[HeadInput] | None = Field(
        default=None,
        min_length=1,
        description="What the head sees. Of sequence models: outputs of the global tokens (globals), mean of the sequence "
        "outputs (sequence_mean), context, candidate; by default all. Of HyFormer and RankMixer: all tokens side by side "
        "(mixed, the default), query tokens only (mixed_queries) or the mean token (mixed_mean); context, candidate.",
    )
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout after each hidden layer.")
    task_weights: dict[str, Annotated[float, Field(ge=0.0)]] = Field(
        default={}, description="Weight of each task's loss, 1 where not named."
    )


class PrecisionConfig(Strict):
    """Compute type per part; parameters, softmax statistics, LayerNorm and the loss stay in fp32. auto: bf16 on a GPU.

    What a part hands on has its compute type: with bf16 layers the rows between layers, which residuals add to, are bf16.
    """

    tokens: Precision = Field(default="auto", description="The token MLP.")
    layers: Precision = Field(default="auto", description="Merging and all attention layers.")
    head: Precision = Field(default="fp32", description="The MLPs that give the logits.")


class ModelConfig(Strict):
    name: Literal["longer", "sum_pooling", "din", "hyformer"] = Field(
        default="longer", description="The sequence model; all but hyformer summarise every sequence for itself."
    )
    interaction: Literal["concat", "rankmixer"] = Field(
        default="concat",
        description="How summaries of sequences, context and candidate meet: side by side in the head, or as RankMixer's "
        "tokens before it. HyFormer has an interaction of its own.",
    )
    tokens: TokenConfig = TokenConfig()
    non_sequential: NonSequentialConfig = NonSequentialConfig()
    longer: LongerConfig = LongerConfig()
    sum_pooling: PoolConfig = PoolConfig()
    din: DinConfig = DinConfig()
    hyformer: HyFormerConfig = HyFormerConfig()
    rankmixer: RankMixerConfig = RankMixerConfig()
    head: HeadConfig = HeadConfig()
    precision: PrecisionConfig = PrecisionConfig()
    recompute: list[Part] = Field(default=[], description="Parts whose activations are dropped and recomputed in the backward.")

    @property
    def mixes(self) -> bool:
        """Whether the head sees tokens that were mixed, rather than features side by side."""
        return self.name == "hyformer" or self.interaction == "rankmixer"

    @property
    def head_inputs(self) -> list[HeadInput]:
        """`head.inputs`, or what they are by default for this model."""
        if self.head.inputs is not None:
            return self.head.inputs
        return ["mixed"] if self.mixes else ["globals", "sequence_mean", "context", "candidate"]

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        self._check_head()
        self._check_parts()
        if self.name == "hyformer":
            self._check_hyformer()
        if self.name == "longer":
            self._check_longer()
        return self

    def _check_head(self) -> None:
        if self.name == "hyformer" and self.interaction != "concat":
            raise ValueError("interaction: hyformer mixes tokens in every layer; leave it out")
        mixed = {"mixed", "mixed_queries", "mixed_mean"}
        known = {"context", "candidate"} | (mixed if self.mixes else {"globals", "sequence_mean"})
        if not self.mixes or self.name != "hyformer":
            known -= {"mixed_queries"}
        if extra := sorted(set(self.head_inputs) - known):
            name = f"{self.name} with interaction: rankmixer" if self.interaction == "rankmixer" else self.name
            raise ValueError(f"head.inputs: {name} has no {', '.join(extra)}; expected some of {', '.join(sorted(known))}")
        if self.mixes and not mixed & set(self.head_inputs):
            raise ValueError(
                f"head.inputs: expected at least one of {', '.join(sorted(mixed & known))}, got {self.head.inputs}"
            )

    def _check_parts(self) -> None:
        """What names a part that this model does not have would change nothing, unnoticed."""
        parts = {
            "longer": ["tokens", "inner", "cross", "self"],
            "hyformer": ["tokens", "encoders", "decoders", "mixer"],
        }.get(self.name, ["tokens"])
        parts += ["mixer"] if self.interaction == "rankmixer" else []
        if extra := [part for part in self.recompute if part not in parts]:
            raise ValueError(f"recompute: {self.name} has no {', '.join(extra)}; expected some of {', '.join(parts)}")
        if self.non_sequential.split is not None and not self.mixes:
            raise ValueError(
                f"non_sequential.split={self.non_sequential.split}: {self.name} makes no tokens of context and candidate; "
                "expected name: hyformer or interaction: rankmixer"
            )

    def _check_hyformer(self) -> None:
        width, heads = self.tokens.width, self.hyformer.heads
        if width % heads:
            raise ValueError(f"hyformer.heads={heads} must divide tokens.width={width}")
        if self.hyformer.merge_sequences and self.hyformer.pools == "own":
            raise ValueError("hyformer.pools: own is of separate sequences; merge_sequences leaves one, expected pools: all")
        if self.hyformer.rotary and (width // heads) % 2:
            raise ValueError(f"hyformer.rotary needs an even head size, got {width} / {heads}")

    def _check_longer(self) -> None:
        width = self.tokens.width * self.longer.merge
        if width % self.longer.heads:
            raise ValueError(
                f"longer.heads={self.longer.heads} must divide the merged width tokens.width * longer.merge = {width}"
            )
        if self.longer.queries == "learnable" and self.longer.k == 0:
            raise ValueError("longer.queries: learnable needs longer.k of at least 1, got 0")
        if self.longer.rotary and (width // self.longer.heads) % 2:
            raise ValueError(f"longer.rotary needs an even head size, got {width} / {self.longer.heads}")
        if self.tokens.width % self.longer.inner_heads:
            raise ValueError(f"longer.inner_heads={self.longer.inner_heads} must divide tokens.width={self.tokens.width}")


class TableConfig(Strict):
    """What one embedding table may override."""

    dim: Size | None = Field(default=None, ge=4, multiple_of=4, description="Width of a row.")
    sharding: list[Literal["data_parallel", "table_wise", "column_wise", "row_wise"]] | None = Field(
        default=None, description="Sharding types the planner may choose from; data_parallel stands alone."
    )
    kernel: list[Literal["dense", "fused", "fused_uvm", "fused_uvm_caching"]] | None = Field(
        default=None,
        description="Compute kernels the planner may choose from. fused_uvm_caching: rows in host memory, a cache on the GPU.",
    )
    cache_fraction: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="With fused_uvm_caching: share of the rows that the cache holds; 0.2 if not said.",
    )

    @model_validator(mode="after")
    def _check(self) -> "TableConfig":
        if self.cache_fraction is not None and "fused_uvm_caching" not in (self.kernel or []):
            raise ValueError(f"cache_fraction={self.cache_fraction} needs kernel: [fused_uvm_caching], got {self.kernel}")
        if self.sharding and "data_parallel" in self.sharding and (len(self.sharding) > 1 or self.kernel):
            raise ValueError(
                "a data_parallel table is not planned: expected sharding: [data_parallel] alone, "
                f"got {self.sharding}, kernel {self.kernel}"
            )
        return self


class EmbeddingConfig(Strict):
    dim: Size = Field(default=16, ge=4, multiple_of=4, description="Width of a row, for tables that say nothing else.")
    optimizer: Literal["rowwise_adagrad", "adam", "sgd"] = Field(
        default="rowwise_adagrad", description="Applied inside the backward."
    )
    lr: float = Field(default=0.05, gt=0.0, description="Learning rate of the rows; constant.")
    eps: float = Field(default=1e-8, gt=0.0, description="Added to the denominator of Adagrad and Adam.")
    weight_decay: float = Field(
        default=0.0, ge=0.0, description="Decoupled, of the rows that a step touches; rowwise_adagrad only."
    )
    init_scale: float = Field(default=0.05, gt=0.0, description="Rows start uniform in +-init_scale.")
    tables: dict[str, TableConfig] = Field(default={}, description="Overrides per table.")


class OptimConfig(Strict):
    dense_update: Literal["sync", "delayed"] = Field(
        default="delayed",
        description="sync: DDP, W_k = W_{k-1} + g_k. delayed: the all-reduce of g_k is waited for one step later.",
    )
    warmup_sync_steps: Size = Field(
        default=1000, ge=0, description="With delayed: this many first steps apply their own gradient at once."
    )
    correction: Literal["none", "extrapolate", "error_feedback"] = Field(
        default="none", description="Correction of delayed gradients, see dist_rec/optim/correction.py."
    )
    delayed_lr_factor: float = Field(default=1.0, gt=0.0, le=1.0, description="Factor of the learning rate of delayed updates.")
    compress: Literal["none", "bf16"] = Field(
        default="none", description="bf16: fp32 gradients travel in bf16; what rounding takes is added to the next one."
    )
    bucket_cap_mb: float = Field(default=25.0, gt=0.0, description="Largest bucket of the dense all-reduce, in MB.")
    accumulation_steps: Size = Field(
        default=1, ge=1, description="Batches per dense update; sparse rows are updated by every batch."
    )
    skip_nonfinite: bool = Field(
        default=True, description="Drop a dense gradient with an infinity or a NaN, on all ranks alike."
    )
    optimizer: Literal["adamw", "adam", "adagrad", "sgd", "muon"] = Field(
        default="adamw",
        description="Torch optimizer of the dense parameters. muon: for matrices, at AdamW's scale; AdamW for the rest: "
        "vectors and the 3-D weights of per-token layers, which torch's Muon does not take.",
    )
    lr: float = Field(default=1e-3, gt=0.0, description="Learning rate at its highest.")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="Of Adam, of AdamW and of the AdamW beside Muon.")
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0, description="Of SGD (Muon has its own, 0.95).")
    weight_decay: float = Field(
        default=0.01, ge=0.0, description="Decoupled in AdamW and Muon, added to the gradient elsewhere."
    )
    clip_norm: float | None = Field(default=1.0, gt=0.0, description="Largest norm of the reduced dense gradient.")
    warmup_steps: Size = Field(default=0, ge=0, description="Linear warm-up of the dense learning rate, in applied updates.")
    decay: Literal["none", "linear", "cosine"] = Field(default="cosine", description="Of the learning rate after its warm-up.")
    final_lr_fraction: float = Field(
        default=0.05, ge=0.0, le=1.0, description="Learning rate at the last step, relative to lr."
    )


class ParallelConfig(Strict):
    backend: Literal["auto", "gloo", "nccl"] = Field(default="auto", description="auto: NCCL with GPUs, gloo without.")
    threads: Size = Field(default=1, ge=1, description="CPU threads per rank for torch operators.")
    join_timeout_s: Size = Field(default=60, ge=1, description="Seconds to wait at the start until all ranks are there.")


class CheckpointConfig(Strict):
    every_steps: Size = Field(default=0, ge=0, description="Save every n steps; 0 saves only at the end.")
    at_end: bool = Field(default=True, description="Save the weights at the end; to resume, every_steps is needed.")


class RunConfig(Strict):
    out: Folder = Field(default="runs", description="A new sub-folder is made in here for each run.")
    name: Annotated[str, AfterValidator(_one_name)] = Field(
        default="run", description="Name of the run's sub-folder; a number is added if it exists."
    )
    seed: Seed = Field(default=0, description="Of initial weights, order of the data and dropout.")
    seeds: list[Seed] = Field(default=[], description="Repeat the run for each seed and report mean and spread; replaces seed.")
    epochs: Size = Field(default=1, ge=1, description="Times through the training split.")
    max_steps: Size | None = Field(default=None, ge=1, description="Stop after this many steps even if epochs are left.")
    eval_every: Size = Field(
        default=0, ge=0, description="Evaluate on the validation split every n steps; 0 only after each epoch."
    )
    select_best: Literal["none", "auc", "logloss"] = Field(
        default="none",
        description="Test the weights that were best on the validation split instead of the last ones, by the first task.",
    )
    patience: Size = Field(
        default=0, ge=0, description="Stop after this many evaluations without a better first task; 0 never. Needs select_best."
    )
    log_every: Size = Field(default=20, ge=1, description="Steps between two log lines.")
    deterministic: bool = Field(default=False, description="Refuse operators without a deterministic form.")
    trace_steps: Size = Field(
        default=0, ge=0, description="Record this many steps with torch's profiler, after the pipeline has filled; 0 none."
    )

    @model_validator(mode="after")
    def _check(self) -> "RunConfig":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, since each has a folder of its own, got {self.seeds}")
        if self.patience and self.select_best == "none":
            raise ValueError(f"patience={self.patience} counts evaluations without a better one, so it needs select_best")
        return self


class Config(Strict):
    """A whole run."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    optim: OptimConfig = OptimConfig()
    parallel: ParallelConfig = ParallelConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    run: RunConfig = RunConfig()


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Reads a recipe and applies `a.b=value` overrides (values are YAML).

    Raises ConfigError naming the key, its place, the nearest right key, what was expected and what came.
    """
    path = Path(path)
    tree = read_yaml(path)
    for override in overrides or []:
        apply_override(tree, override)
    return check(Config, tree, str(path))


def read_yaml(path: Path, missing: str = "no such file") -> dict[str, Any]:
    """A YAML mapping from a file in UTF-8, or ConfigError saying what is wrong with it: `missing` if it is not there."""
    try:
        content = path.read_bytes()
        text = content.removeprefix(codecs.BOM_UTF8).decode()  # some editors put a byte order mark in front
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{path}: {missing}") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: expected a YAML file, got a folder") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        came = f"a byte {error.object[error.start]:#04x} in line {line}"
        raise ConfigError(f"{path}: expected text in UTF-8, got {came}; save the file as UTF-8") from error
    if "\0" in text:
        raise ConfigError(f"{path}: expected text in UTF-8, got zero bytes, as in UTF-16; save the file as UTF-8")
    tree = _parse(text, f"{path}: not valid YAML")
    if not isinstance(tree, dict):
        came = "nothing" if tree is None else type(tree).__name__
        raise ConfigError(f"{path}: expected a mapping of keys at the top, got {came}")
    return tree


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Sets one `a.b.c=value` in a tree of mappings, in place."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override}: expected key=value, for example model.longer.k=32")
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override}: '{parent}' holds a value, not a group of keys")
    tree[last] = _parse(text, f"--set {override}: the value is not valid YAML")


MERGE_TAG = "tag:yaml.org,2002:merge"


class _OnceLoader(yaml.SafeLoader):
    """Plain data only, and no key twice in one mapping: plain YAML would keep the last one and drop the others."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name = key.value if key.tag == MERGE_TAG else self.construct_object(key)
                line = key.start_mark.line + 1
                if name in lines:
                    raise yaml.YAMLError(
                        f"the key '{key.value}' stands twice, in line {lines[name]} and in line {line}; keep one"
                    )
                lines[name] = line
        return node


def _parse(text: str, wrong: str) -> Any:
    """The value of a YAML text; `wrong` begins the ConfigError for text that is none."""
    try:
        return yaml.load(text, Loader=_OnceLoader)
    except RecursionError as error:
        raise ConfigError(f"{wrong}: it is nested too deeply, or holds itself") from error
    # What PyYAML raises for a value that is not of its tag: 2024-13-01, !!timestamp x, !!bool x.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise ConfigError(f"{wrong}: {error}") from error


def check_distinct(what: str, names: Sequence[str], why: str) -> None:
    """Raises ValueError if a name stands twice."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{what}: expected every name once, got '{twice[0]}' {names.count(twice[0])} times; {why}")


def check(kind: type[T], tree: dict[str, Any], where: str) -> T:
    """Validates a tree against a Strict class; every problem becomes one line of a ConfigError."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(kind, problem) for problem in error.errors()]
        raise ConfigError(f"{where}:\n  " + "\n  ".join(lines)) from error


def _explain(kind: type[Strict], problem: Any) -> str:
    place = [str(step) for step in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        known = list(_keys_at(kind, place[:-1]))
        near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else f"; known here: {', '.join(known)}"
        return f"{'.'.join(place)}: unknown key{hint}"
    if problem["type"] in ("model_type", "dict_type"):
        came = "nothing; remove the line, or add keys" if problem["input"] is None else repr(problem["input"])
        return f"{'.'.join(place)}: expected a group of keys, got {came}"
    message = problem["msg"].removeprefix("Value error, ")
    came = "" if problem["type"] in ("missing", "value_error") else f", got {problem['input']!r}"
    return f"{'.'.join(place) or 'top level'}: {message}{came}"


def _keys_at(kind: type[Strict], place: list[str]) -> list[str]:
    """Names that are valid under a path of keys; descends through nested models, lists and mappings of models."""
    current: Any = kind
    for step in place:
        if isinstance(current, type) and issubclass(current, BaseModel) and step in current.model_fields:
            current = _model_inside(current.model_fields[step].annotation)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _model_inside(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_inside(argument) for argument in getattr(annotation, "__args__", ()))
    return next((kind for kind in found if kind is not None), None)
