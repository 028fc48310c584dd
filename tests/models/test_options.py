"""What models say of themselves before they are built: inputs of the head, parts, and widths that token mixing can
cut."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dist_rec.common.strict import ConfigError, check
from dist_rec.config import Config
from dist_rec.models.config import ModelConfig
from dist_rec.models.options import check_divides


def test_heads_need_not_fit_a_model_that_is_not_chosen() -> None:
    tree = {"data": {"path": "x"}, "model": {"name": "din", "tokens": {"width": 30}}}
    assert check(Config, tree, "here").model.name == "din"


def test_rules_of_hyformer_hold_for_hyformer_only() -> None:
    tree = {"tokens": {"width": 32}, "hyformer": {"heads": 5, "rotary": True}}
    assert ModelConfig.model_validate(tree).name == "longer"
    even = {"name": "hyformer", "tokens": {"width": 12}, "hyformer": {"heads": 3, "rotary": True}}
    assert ModelConfig.model_validate(even).hyformer.rotary
    odd = {
        "name": "hyformer",
        "tokens": {"width": 9},
        "hyformer": {"heads": 3},
        "longer": {"heads": 5, "inner_heads": 2},
    }
    assert ModelConfig.model_validate(odd).hyformer.heads == 3


UNMIXED = ("longer", "din", "sum_pooling")
SEPARATE, MIXED = {"globals", "sequence_mean", "context", "candidate"}, {"mixed", "mixed_mean", "context", "candidate"}
ALL = SEPARATE | MIXED | {"mixed_queries"}
HYFORMER = {"name": "hyformer"}
HEADS: list[tuple[dict[str, Any], list[str], set[str]]] = [
    *(({"name": name}, ["globals", "sequence_mean", "context", "candidate"], SEPARATE) for name in UNMIXED),
    *(({"name": name, "interaction": "rankmixer"}, ["mixed"], MIXED) for name in UNMIXED),
    (HYFORMER, ["mixed"], MIXED | {"mixed_queries"}),
]


@pytest.mark.parametrize(("tree", "default", "known"), HEADS, ids=[" ".join(tree.values()) for tree, _, _ in HEADS])
def test_every_model_has_its_own_inputs_of_the_head(tree: dict[str, Any], default: list[str], known: set[str]) -> None:
    config = ModelConfig.model_validate(tree)
    options = config.resolved_options()
    assert options.head_inputs(config) == default and options.mixes(config) == (default == ["mixed"])
    everything = {**tree, "head": {"inputs": sorted(known)}}
    config = ModelConfig.model_validate(everything)
    assert config.resolved_options().head_inputs(config) == sorted(known)
    for other in ALL - known:
        with pytest.raises(ValidationError, match=f"has no {other}; expected some of {', '.join(sorted(known))}"):
            ModelConfig.model_validate({**tree, "head": {"inputs": [*default, other]}})


@pytest.mark.parametrize("tree", [HYFORMER, {"name": "din", "interaction": "rankmixer"}])
def test_mixed_tokens_must_reach_the_head(tree: dict[str, Any]) -> None:
    with pytest.raises(
        ValidationError, match=r"head.inputs: expected at least one of mixed, mixed_mean.*, got \['candidate'\]"
    ):
        ModelConfig.model_validate({**tree, "head": {"inputs": ["candidate"]}})


def test_a_refused_input_of_the_head_says_of_which_model() -> None:
    with pytest.raises(
        ValidationError, match=r"head.inputs: din with interaction: rankmixer has no globals, mixed_queries;"
    ):
        ModelConfig.model_validate(
            {"name": "din", "interaction": "rankmixer", "head": {"inputs": ["mixed_queries", "globals", "mixed"]}}
        )


@given(width=st.integers(1, 200), counts=st.lists(st.integers(1, 9), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_width_must_be_a_multiple_of_the_number_of_tokens(width: int, counts: list[int]) -> None:
    named = {f"part {i}": count for i, count in enumerate(counts)}
    tokens = sum(counts)
    if width % tokens == 0:
        assert check_divides(width, named, "here") == tokens
        return
    with pytest.raises(ConfigError) as caught:
        check_divides(width, named, "here")
    parts = " + ".join(f"{count} part {i}" for i, count in enumerate(counts))
    assert f"here={width}: " in str(caught.value) and f"T = {parts} = {tokens};" in str(caught.value)
    near = str(caught.value).split("example ")[1].split(",")[0].split(" or ")
    below, above = width - width % tokens, width - width % tokens + tokens
    assert [int(one) for one in near] == ([below, above] if below else [above])
