"""Names of parts: built in or by path, and what is said where a name leads nowhere."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dist_rec import registry
from dist_rec.common.strict import ConfigError, Strict
from dist_rec.models.layers.loss import BinaryCrossEntropy, Loss
from dist_rec.registry import LOSSES, MODEL_SECTIONS, MODELS, Kind, Part, model_section, part

KINDS = [kind for kind in vars(registry).values() if isinstance(kind, Kind)]
OWN = """
from dist_rec.common.strict import Strict
from dist_rec.models.layers.loss import Loss

class Focal(Loss):
    class Config(Strict):
        gamma: float = 2.0

class Wrong:
    class Config(Strict):
        pass

class NoOptions(Loss):
    Config = dict

class Outer:
    class Inner(Loss):
        pass

def function():
    pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of a user's, with a module `losses`; its name."""
    (tmp_path / "own_pkg").mkdir()
    for name, text in (("__init__", ""), ("losses", OWN), ("broken", "import not_there_at_all"), ("raises", "1 / 0")):
        (tmp_path / "own_pkg" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_pkg"
    for name in [name for name in sys.modules if name.startswith("own_pkg")]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.key)
def test_every_built_in_part_is_there_and_of_its_kind(kind: Kind) -> None:
    for name in kind.built_in:
        kind.known(Part(name=name))
        found = kind.resolve(name)
        assert issubclass(found.Config, Strict) and found.Config() is not None


def test_the_sections_of_models_are_their_options() -> None:
    for name in MODELS.built_in:
        assert model_section(name) is MODELS.resolve(name).Config
    assert set(MODEL_SECTIONS) == {*MODELS.built_in, "rankmixer"} and model_section("longr") is None


def test_a_part_of_ones_own(own: str) -> None:
    made = LOSSES.make(Part(name=f"{own}.losses:Focal", options={"gamma": 1.5}))
    assert isinstance(made, Loss) and made.options.gamma == 1.5
    assert issubclass(LOSSES.resolve(f"{own}.losses:Outer.Inner"), Loss)
    assert LOSSES.known(Part(name="anything.at:All")).name == "anything.at:All", "a path is not followed here"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "binary_cross_entropi",
            "no loss named 'binary_cross_entropi'; did you mean 'binary_cross_entropy'? (a part of one's own",
        ),
        (
            "nowhere.losses:Focal",
            "no module nowhere where Python looks; expected its folder on PYTHONPATH or installed",
        ),
        ("own_pkg.lossess:Focal", "found the package own_pkg, but no module lossess in it; did you mean 'losses'?"),
        (
            "own_pkg.losses.deep:Focal",
            "found own_pkg.losses, which is a module and no package",
        ),
        ("own_pkg.losses:Fokal", "found own_pkg.losses, but no Fokal in it; did you mean 'Focal'?"),
        ("own_pkg.losses:Outer.Iner", "found own_pkg.losses:Outer, but no Iner in it; did you mean 'Inner'?"),
        ("own_pkg.losses:", "found own_pkg.losses, but no name in it"),
        ("own_pkg.broken:Focal", "own_pkg.broken cannot be imported: No module named 'not_there_at_all'"),
        ("own_pkg.raises:Focal", "own_pkg.raises cannot be imported: ZeroDivisionError: division by zero"),
        ("own_pkg.losses:function", "expected a subclass of dist_rec.models.layers.loss.Loss, got function"),
        ("own_pkg.losses:Wrong", "expected a subclass of dist_rec.models.layers.loss.Loss, got Wrong"),
        ("own_pkg.losses:NoOptions", "expected its Config to be a subclass of Strict"),
    ],
)
def test_a_name_that_leads_nowhere_says_how_far_it_led(own: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"model.head.loss.*{re.escape(message)}"):
        LOSSES.resolve(name)


def test_wrong_options_get_the_nearest_key(own: str) -> None:
    with pytest.raises(ConfigError, match=r"gama: unknown key; did you mean 'gamma'\?"):
        LOSSES.make(Part(name=f"{own}.losses:Focal", options={"gama": 1}))
    with pytest.raises(ValueError, match="binary_cross_entropy is built in and has no options"):
        LOSSES.known(Part(name="binary_cross_entropy", options={"gamma": 1}))


def test_a_part_in_yaml_is_its_name_or_a_group() -> None:
    assert Part.model_validate("focal") == Part(name="focal")
    assert Part(name="focal").model_dump() == "focal"
    assert Part(name="a:B", options={"x": 1}).model_dump() == {"name": "a:B", "options": {"x": 1}}


def test_a_class_names_itself() -> None:
    found = part(BinaryCrossEntropy)
    assert LOSSES.resolve(found.name) is BinaryCrossEntropy and found.options == {}
