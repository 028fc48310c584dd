"""A process that lacks packages which are installed."""

import sys
from collections.abc import Collection, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Without:
    """A finder of modules that does not find some packages: for an import and for whoever asks before it, they are as
    if they had never been installed."""

    def __init__(self, finder: Any, packages: Collection[str]) -> None:
        self.finder, self.packages = finder, packages

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if name.partition(".")[0] in self.packages else self.finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)  # how installed distributions are listed


def hide(packages: Collection[str]) -> None:
    """From now on an import of them raises ModuleNotFoundError, which names the package."""
    loaded = [name for name in packages if name in sys.modules]
    assert not loaded, f"imported before they were hidden: {loaded}"
    sys.meta_path[:] = [_Without(finder, packages) for finder in sys.meta_path]
