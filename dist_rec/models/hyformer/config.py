"""HyFormer's options (arXiv 2601.12681)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dist_rec.common.strict import ConfigError, Size, Strict
from dist_rec.models.options import MIXED, ModelOptions, check_divides, num_non_sequential

if TYPE_CHECKING:
    from dist_rec.config import ModelConfig
    from dist_rec.data.schema import Schema

MERGED = "merged"
QueryInput = Literal["non_sequential", "candidate", "pools"]


class HyFormerSequence(Strict):
    """How HyFormer treats one sequence (arXiv 2601.12681, sections 3.4 and 3.7)."""

    encoder: Literal["full", "longer", "swiglu"] = Field(
        default="longer",
        description="full: a transformer layer over all events. longer: in the first layer the newest events look at "
        "all, later layers stay with them; with fewer events than `recent` the same as full. swiglu: no attention.",
    )
    recent: Size = Field(default=128, ge=1, description="L_H: newest events that are query rows, with encoder: longer.")
    causal: bool = Field(
        default=False,
        description="Events of full and longer see only older ones; needed with candidates' own `visible_events`.",
    )
    queries: Size = Field(default=1, ge=1, description="N_s: query tokens of this sequence.")


class HyFormerConfig(ModelOptions):
    """The width D is `tokens.width`, a multiple of T = all query tokens + M.

    Where the paper is silent or says two things, the default is our reading and the field the other one.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("encoders", "decoders", "mixer")
    OUTPUTS: ClassVar[tuple[str, ...]] = MIXED
    MIXES: ClassVar[bool] = True
    READS_FEEDBACK: ClassVar[bool] = True

    layers: Size = Field(default=2, ge=1, description="Layers of encoding, query decoding and query boosting.")
    heads: Size = Field(default=4, ge=1, description="Attention heads of encoders and decoders.")
    ffn_expansion: Size = Field(default=4, ge=1, description="Feed-forward (and SwiGLU) width of the encoders over D.")
    mixer_expansion: Size = Field(default=4, ge=1, description="k: width of the per-token feed-forward layer over D.")
    query_expansion: Size = Field(
        default=4, ge=1, description="Hidden width of each query's feed-forward layer over D."
    )
    sequences: dict[str, HyFormerSequence] = Field(
        default={}, description="By sequence name; defaults for those not named."
    )
    query_inputs: list[QueryInput] = Field(
        default=["non_sequential", "pools"],
        min_length=1,
        description="What queries are made of: all non-sequential tokens (or those with candidate fields), pooled "
        "sequences.",
    )
    pools: Literal["all", "own"] = Field(
        default="all", description="Whether a query is made from the pools of all sequences or of its own only."
    )
    encode_from: Literal["previous", "input"] = Field(
        default="previous",
        description="What a layer's encoder reads: the last layer's encoding H_(l-1), or the tokens S.",
    )
    evolve_non_sequential: bool = Field(
        default=True,
        description="The next layer gets the boosted non-sequential tokens; false gives it the first ones.",
    )
    per_token: bool = Field(
        default=True, description="Own feed-forward weights for every token position; false shares them."
    )
    rankmixer_block: bool = Field(
        default=False,
        description="Query boosting with RankMixer's two residuals and post-norms instead of one and pre-norm.",
    )
    merge_sequences: bool = Field(
        default=False,
        description="Join all sequences, in the order of the schema, into one with the settings of the first; to "
        "compare. Newest events of the joined sequence are those at its end: of the schema's last sequence.",
    )
    rotary: bool = Field(
        default=False, description="Rotate queries and keys by their position (relative positions); not in the paper."
    )
    dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="Dropout on token embeddings and on every residual branch."
    )

    def wants_pools(self) -> bool:
        return "pools" in self.query_inputs

    def sequence(self, name: str) -> HyFormerSequence:
        """The settings of a sequence, defaults where the recipe does not name it."""
        return self.sequences.get(name, HyFormerSequence())

    def settings(self, names: list[str]) -> dict[str, HyFormerSequence]:
        """Of every sequence that is encoded: those of the schema, or with `merge_sequences` a single one."""
        settings = {name: self.sequence(name) for name in names}
        return {MERGED: settings[names[0]]} if self.merge_sequences else settings

    def check(self, model: "ModelConfig") -> None:
        width, heads = model.tokens.width, self.heads
        if width % heads:
            raise ValueError(f"hyformer.heads={heads} must divide tokens.width={width}")
        if self.merge_sequences and self.pools == "own":
            raise ValueError(
                "hyformer.pools: own is of separate sequences; merge_sequences leaves one, expected pools: all"
            )
        if self.rotary and (width // heads) % 2:
            raise ValueError(f"hyformer.rotary needs an even head size, got {width} / {heads}")

    def check_schema(self, model: "ModelConfig", schema: "Schema") -> None:
        known = [sequence.name for sequence in schema.sequences]
        if unknown := sorted(set(self.sequences) - set(known)):
            raise ConfigError(
                f"model.hyformer.sequences: no sequence {', '.join(unknown)} in the schema; known: {', '.join(known)}"
            )
        if self.merge_sequences and (others := sorted(set(self.sequences) - {known[0]})):
            raise ConfigError(
                "model.hyformer.sequences: merge_sequences joins all into one with the settings of the first, "
                f"{known[0]}; expected nothing for {', '.join(others)}"
            )
        if "candidate" in self.query_inputs and model.non_sequential.split is not None:
            raise ConfigError(
                "model.hyformer.query_inputs: candidate needs groups of fields, but model.non_sequential.split cuts "
                "them"
            )
        if schema.candidate.visible_events:
            self._check_causal(known)
        self.num_tokens(model, schema)

    def num_tokens(self, model: "ModelConfig", schema: "Schema") -> int:
        """T. Raises ConfigError if the width is no multiple of it."""
        settings = self.settings([sequence.name for sequence in schema.sequences])
        queries = sum(sequence.queries for sequence in settings.values())
        counts = {"queries": queries, "non-sequential": num_non_sequential(model, schema)}
        return check_divides(model.tokens.width, counts, "model.tokens.width")

    def _check_causal(self, names: list[str]) -> None:
        for name in names:
            sequence = self.sequence(name)
            if sequence.encoder == "longer" or (sequence.encoder == "full" and not sequence.causal):
                raise ConfigError(
                    f"model.hyformer.sequences.{name}: candidates with their own `visible_events` need states of "
                    "events that know no later one, for all events; expected encoder: full with causal: true, or "
                    f"encoder: swiglu, got encoder: {sequence.encoder}, causal: {str(sequence.causal).lower()}"
                )
