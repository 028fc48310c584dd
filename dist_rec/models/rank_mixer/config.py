"""RankMixer's options (arXiv 2507.15551)."""

from pydantic import Field

from dist_rec.common.strict import Size, Strict


class RankMixerConfig(Strict):
    """RankMixer over the non-sequential tokens and one token per sequence summary: `model.interaction: rankmixer`."""

    width: Size = Field(default=64, ge=4, description="D: width of a token; a multiple of the number of tokens T.")
    layers: Size = Field(default=2, ge=1, description="Blocks of token mixing and per-token feed-forward layer.")
    expansion: Size = Field(default=4, ge=1, description="k: width of the per-token feed-forward layer over D.")
    per_token: bool = Field(
        default=True, description="Own feed-forward weights for every token position; false shares them."
    )
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="Dropout on the feed-forward branch.")
