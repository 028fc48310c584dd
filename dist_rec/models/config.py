"""The `model` section of a recipe: what every model has. Options of each model: the `config.py` in its folder. No
torch."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails

from dist_rec.common.strict import Size, Strict, Width
from dist_rec.registry import LOSSES, MODEL_SECTIONS, MODELS, Part, model_section

Precision = Literal["auto", "fp32", "bf16"]
Immature = Literal["leave_out", "fake_negative_weighting", "delayed_feedback_model"]


class TokenConfig(Strict):
    """Event tokens: `x_t = MLP([(e_t + p_t) ; tau(dt_t) ; side values])` (LONGER, section 3.4)."""

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
    side_dim: Size = Field(default=8, ge=1, description="Width of the embedding of each side value and number.")
    vector_dim: Size = Field(
        default=16, ge=1, description="Width that a vector which belongs to an id is projected to."
    )


class NonSequentialConfig(Strict):
    """Context and candidate features as M tokens, for HyFormer and RankMixer."""

    split: Size | None = Field(
        default=None,
        ge=1,
        description="Cut the concatenated features into this many equal slices, one token each; by default every group "
        "of the schema is a token.",
    )


class HeadConfig(Strict):
    hidden: list[Width] = Field(
        default=[256, 128], description="Widths of each task's MLP over the concatenated inputs; one output follows."
    )
    inputs: list[str] | None = Field(
        default=None,
        min_length=1,
        description="What the head sees. Of models that summarise sequences: outputs of the global tokens (globals), "
        "mean of the sequence outputs (sequence_mean), context, candidate; by default all. Of HyFormer and RankMixer: "
        "all tokens side by side (mixed, the default), query tokens only (mixed_queries) or the mean token "
        "(mixed_mean); context, candidate.",
    )
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout after each hidden layer.")
    loss: Annotated[Part, AfterValidator(LOSSES.known)] = Field(
        default=Part(name="binary_cross_entropy"),
        description="Of one task: binary_cross_entropy, or a Loss of one's own.",
    )
    immature: Immature = Field(
        default="leave_out",
        description="Labels that are not final when they are trained on: leave_out; fake_negative_weighting, which "
        "takes those without a 1 for negatives and weighs them; or delayed_feedback_model, which also learns how long "
        "a 1 takes. The latter two need data.observed_at and labels with a horizon.",
    )
    task_weights: dict[str, Annotated[float, Field(ge=0.0)]] = Field(
        default={}, description="Weight of each task's loss, 1 where not named."
    )


class PrecisionConfig(Strict):
    """Compute type per part; parameters, the statistics of softmax and LayerNorm and the loss stay in fp32. auto: bf16
    on a GPU.

    What a part hands on has its compute type: with bf16 layers the rows between layers, which residuals add to, are
    bf16."""

    tokens: Precision = Field(default="auto", description="The token MLP.")
    layers: Precision = Field(default="auto", description="Merging and all attention layers.")
    head: Precision = Field(default="fp32", description="The MLPs that give the logits.")


class ModelConfig(Strict):
    """What every model has. The options of a built-in model are the section of its name, such as `model.longer.k`;
    those of a model of one's own are `model.options`. Sections of models that are not in use are checked and otherwise
    left alone."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    name: str = Field(
        default="longer",
        description="The sequence model: longer, sum_pooling, din, hyformer, or package.module:Name; all built-in ones "
        "but hyformer summarise every sequence for itself.",
    )
    options: dict[str, Any] = Field(default={}, description="Options of a model of one's own, checked by its `Config`.")
    interaction: Literal["concat", "rankmixer"] = Field(
        default="concat",
        description="How summaries of sequences, context and candidate meet: side by side in the head, or as "
        "RankMixer's tokens before it. HyFormer has an interaction of its own.",
    )
    tokens: TokenConfig = TokenConfig()
    non_sequential: NonSequentialConfig = NonSequentialConfig()
    head: HeadConfig = HeadConfig()
    precision: PrecisionConfig = PrecisionConfig()
    recompute: list[str] = Field(
        default=[], description="Parts whose activations are dropped and recomputed in the backward."
    )

    @classmethod
    def known_keys(cls) -> list[str]:
        return [*cls.model_fields, *MODEL_SECTIONS]

    @classmethod
    def kind_below(cls, key: str) -> type[Strict] | None:
        return super().kind_below(key) or model_section(key)

    def section(self, name: str) -> Any:
        """The section of a built-in model or of rankmixer; its defaults where the recipe has none."""
        found = (self.__pydantic_extra__ or {}).get(name)
        kind = model_section(name)
        assert kind is not None, f"{name} is a section"
        return kind() if found is None else found

    def resolved_options(self) -> Any:
        """The options of the model in use. Raises ConfigError where they, or the model of one's own, cannot be
        found."""
        return self.section(self.name) if self.name in MODEL_SECTIONS else MODELS.options(self.as_part())

    def as_part(self) -> Part:
        return Part(name=self.name, options=self.options)

    @model_validator(mode="wrap")
    @classmethod
    def _check_sections(cls, tree: Any, handler: ModelWrapValidatorHandler["ModelConfig"]) -> "ModelConfig":
        if not isinstance(tree, dict):
            return handler(tree)
        fields = {key: value for key, value in tree.items() if key in cls.model_fields}
        problems: list[InitErrorDetails] = []
        for key, value in tree.items():
            kind = model_section(key) if key not in fields and isinstance(key, str) else None
            if kind is not None:
                try:
                    fields[key] = kind.model_validate(value)
                except ValidationError as error:
                    problems += _below(key, error)
            elif key not in fields:
                problems.append({"type": "extra_forbidden", "loc": (key,), "input": value})
        try:
            made = handler(fields)
        except ValidationError as error:
            problems += _below(None, error)
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        made._check()  # pyright: ignore[reportPossiblyUnboundVariable] - without it there are problems
        return made  # pyright: ignore[reportPossiblyUnboundVariable]

    def _check(self) -> None:
        """What can be known without a look at parts of one's own, which the door takes (door.py)."""
        if ":" not in self.name:
            if self.options:
                raise ValueError(f"options: {self.name} is built in; its options are the section model.{self.name}")
            MODELS.known(self.as_part())
            self.section(self.name).check_model(self)

    @model_serializer(mode="wrap")
    def _only_what_is_in_use(self, handler: Any) -> dict[str, Any]:
        """The sections in use with all their defaults, and none of other models."""
        tree = {key: value for key, value in handler(self).items() if key in type(self).model_fields}
        used = [self.name] if self.name in MODEL_SECTIONS else []
        used += ["rankmixer"] if self.interaction == "rankmixer" else []
        if ":" not in self.name:
            tree.pop("options", None)
        return tree | {name: self.section(name).model_dump(mode="json") for name in used}


def _below(key: str | None, error: ValidationError) -> list[InitErrorDetails]:
    """The problems of a structure as those of the structure around it."""
    above = () if key is None else (key,)
    return [
        {"type": each["type"], "loc": (*above, *each["loc"]), "input": each["input"], "ctx": each.get("ctx", {})}
        for each in error.errors()
    ]
