"""LONGER's options (arXiv 2505.04421)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dist_rec.common.strict import ConfigError, Size
from dist_rec.models.options import ModelOptions

if TYPE_CHECKING:
    from dist_rec.config import ModelConfig
    from dist_rec.data.schema import Schema

Global = Literal["candidate", "user", "cls"]


class LongerConfig(ModelOptions):
    """Defaults follow the paper's published main model, scaled to a small machine where the paper is silent."""

    PARTS: ClassVar[tuple[str, ...]] = ("inner", "cross", "self")
    READS_FEEDBACK: ClassVar[bool] = True

    merge: Size = Field(default=4, ge=1, description="K: adjacent events merged into one token; merged width is K * d.")
    inner_trans: bool = Field(default=True, description="A transformer block inside each merged group (InnerTrans).")
    inner_heads: Size = Field(default=2, ge=1, description="Heads of InnerTrans at width d.")
    k: Size = Field(
        default=32, ge=0, description="Query rows from the sequence, in merged tokens; 0 takes all of them."
    )
    queries: Literal["recent", "uniform", "learnable", "mixed"] = Field(
        default="recent",
        description="Which rows query: the newest k, k evenly spaced, k learned, or half newest and half evenly "
        "spaced.",
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

    def check(self, model: "ModelConfig") -> None:
        width = model.tokens.width * self.merge
        if width % self.heads:
            raise ValueError(
                f"longer.heads={self.heads} must divide the merged width tokens.width * longer.merge = {width}"
            )
        if self.queries == "learnable" and self.k == 0:
            raise ValueError("longer.queries: learnable needs longer.k of at least 1, got 0")
        if self.rotary and (width // self.heads) % 2:
            raise ValueError(f"longer.rotary needs an even head size, got {width} / {self.heads}")
        if model.tokens.width % self.inner_heads:
            raise ValueError(f"longer.inner_heads={self.inner_heads} must divide tokens.width={model.tokens.width}")

    def check_schema(self, model: "ModelConfig", schema: "Schema") -> None:
        if not self.mixes(model) and not {"globals", "sequence_mean"} & set(self.head_inputs(model)):
            raise ConfigError(
                "model.head.inputs: longer gives globals and sequence_mean, and the head would see neither; expected "
                f"at least one of them, got {model.head.inputs}"
            )
        if schema.candidate.visible_events and (self.merge != 1 or self.k != 0 or self.queries != "recent"):
            raise ConfigError(
                "model.longer: candidates with their own `visible_events` need every event as a row of its own; "
                f"expected merge: 1, k: 0, queries: recent, got merge: {self.merge}, k: {self.k}, queries: "
                f"{self.queries}"
            )
        if "user" in self.globals and not any(name.startswith("context.") for name in schema.grouped_fields):
            raise ConfigError(
                "model.longer.globals: global token 'user' needs context fields, but the schema declares none; take it "
                "out"
            )
