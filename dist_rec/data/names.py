"""Names that a schema may give to what a model has modules for."""

from collections.abc import Iterable

from torch import nn

TAKEN_NAMES = frozenset(dir(nn.ModuleDict()))  # modules are named after sequences, tables, side values and numbers


def check_names(place: str, names: Iterable[str]) -> None:
    """Raises ValueError for a name that no module can have."""
    for name in names:
        if not name or "." in name or name in TAKEN_NAMES:
            raise ValueError(
                f"{place}: '{name}' cannot be a name here; expected one without dots that is no attribute of torch's "
                f"ModuleDict, for example {name.replace('.', '_')}_1"
            )
