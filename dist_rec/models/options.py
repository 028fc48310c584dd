"""What the options of every model have in common, and what a model says of itself before it is built. Free of torch."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from dist_rec.common.strict import ConfigError, Strict

if TYPE_CHECKING:
    from dist_rec.config import ModelConfig
    from dist_rec.data.schema import Schema

MIXED = ("mixed", "mixed_queries", "mixed_mean")


class ModelOptions(Strict):
    """Base of every model's options; a model without options of its own can use it as it is.

    - `PARTS`: names for `model.recompute`, beside "tokens"
    - `OUTPUTS`: what the model gives the head, as named in `model.head.inputs`
    - `READS_FEEDBACK`: whether twins of candidates can attend to feedback tokens
    - `MIXES`: whether the model mixes all tokens by itself, so that no `model.interaction` follows
    """

    PARTS: ClassVar[tuple[str, ...]] = ()
    OUTPUTS: ClassVar[tuple[str, ...]] = ("globals", "sequence_mean")
    MIXES: ClassVar[bool] = False
    READS_FEEDBACK: ClassVar[bool] = False

    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout on token embeddings.")

    def check(self, model: "ModelConfig") -> None:
        """Raises ValueError for options that do not fit one another or the rest of `model`."""

    def check_schema(self, model: "ModelConfig", schema: "Schema") -> None:
        """Raises ConfigError if the model cannot work on this schema."""

    def mixes(self, model: "ModelConfig") -> bool:
        """Whether the head sees tokens that were mixed, rather than features side by side."""
        return self.MIXES or model.interaction == "rankmixer"

    def outputs(self, model: "ModelConfig") -> tuple[str, ...]:
        """What the head can be given, beside `context` and `candidate`."""
        if self.MIXES:
            return self.OUTPUTS
        return ("mixed", "mixed_mean") if model.interaction == "rankmixer" else self.OUTPUTS

    def head_inputs(self, model: "ModelConfig") -> list[str]:
        """`model.head.inputs`, or what they are by default for this model."""
        if model.head.inputs is not None:
            return model.head.inputs
        return ["mixed"] if self.mixes(model) else ["globals", "sequence_mean", "context", "candidate"]

    def wants_pools(self) -> bool:
        """Whether the model reads the pooled mean of every sequence."""
        return False

    def check_model(self, model: "ModelConfig") -> None:
        """Everything that can be known without a schema. Raises ValueError."""
        self._check_head(model)
        self._check_parts(model)
        self.check(model)

    def _check_head(self, model: "ModelConfig") -> None:
        if self.MIXES and model.interaction != "concat":
            raise ValueError(f"interaction: {model.name} mixes tokens in every layer; leave it out")
        known, inputs = {"context", "candidate", *self.outputs(model)}, self.head_inputs(model)
        if extra := sorted(set(inputs) - known):
            name = f"{model.name} with interaction: rankmixer" if model.interaction == "rankmixer" else model.name
            raise ValueError(
                f"head.inputs: {name} has no {', '.join(extra)}; expected some of {', '.join(sorted(known))}"
            )
        if self.mixes(model) and not set(MIXED) & set(inputs):
            expected = ", ".join(sorted(set(MIXED) & known))
            raise ValueError(f"head.inputs: expected at least one of {expected}, got {model.head.inputs}")

    def _check_parts(self, model: "ModelConfig") -> None:
        """What names a part that this model does not have would change nothing, unnoticed."""
        parts = ["tokens", *self.PARTS, *(["mixer"] if model.interaction == "rankmixer" else [])]
        if extra := [part for part in model.recompute if part not in parts]:
            raise ValueError(f"recompute: {model.name} has no {', '.join(extra)}; expected some of {', '.join(parts)}")
        if model.non_sequential.split is not None and not self.mixes(model):
            raise ValueError(
                f"non_sequential.split={model.non_sequential.split}: {model.name} makes no tokens of context and "
                "candidate; expected name: hyformer or interaction: rankmixer"
            )


def check_divides(width: int, counts: dict[str, int], where: str) -> int:
    """The number of tokens T, a sum of named counts. Raises ConfigError if D is no multiple of T: mixing cuts every
    token into T slices."""
    tokens = sum(counts.values())
    if width % tokens:
        parts = " + ".join(f"{count} {name}" for name, count in counts.items())
        lower, upper = width // tokens * tokens, (width // tokens + 1) * tokens
        near = f"{lower} or {upper}" if lower else f"{upper}"
        raise ConfigError(
            f"{where}={width}: token mixing needs a multiple of the number of tokens, T = {parts} = {tokens}; expected "
            f"for example {near}, or another number of tokens (queries, groups of the schema, "
            "model.non_sequential.split)"
        )
    return tokens


def num_non_sequential(model: "ModelConfig", schema: "Schema") -> int:
    """M: tokens that context and candidate fields make."""
    split = model.non_sequential.split
    return len(schema.token_groups) if split is None else split
