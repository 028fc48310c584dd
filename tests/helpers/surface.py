"""The public names of dist_rec and their signatures as text."""

import dataclasses
import inspect
import typing
from importlib import import_module
from typing import Any

# Every module that users import names from; all of its `__all__` is public.
MODULES = (
    "dist_rec",
    "dist_rec.data",
    "dist_rec.distill",
    "dist_rec.embedding",
    "dist_rec.optim",
    "dist_rec.kernels.cross_causal_attention",
    "dist_rec.kernels.gather_pool",
    "dist_rec.kernels.unique_ids",
)


def surface() -> dict[str, str]:
    """`module.name` -> what it is: the signature of a function, of a class and of its public methods, or a type's
    text."""
    found: dict[str, str] = {}
    for module in MODULES:
        for name in sorted(import_module(module).__all__):
            found |= _described(f"{module}.{name}", getattr(import_module(module), name))
    # Python 3.13 names the module inside in which the class now is.
    return {place: text.replace("pathlib._local.", "pathlib.") for place, text in found.items()}


def _described(place: str, value: Any) -> dict[str, str]:
    if _is_type(value):  # Python 3.10 takes tuple[...] for a class
        return {place: _text(value)}
    if not inspect.isclass(value):
        return {place: _signature(value) if callable(value) else _text(value)}
    bases = [base.__name__ for base in value.__bases__ if base is not object]
    found = {place: f"class({', '.join(bases)}) {_signature(value)}"}
    for name, member in sorted(vars(value).items()):
        if name.startswith("_"):
            continue
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(member, property):
            found[f"{place}.{name}"] = "property"
        elif inspect.isfunction(plain):
            found[f"{place}.{name}"] = _signature(plain)
    return found


def _is_type(value: Any) -> bool:
    return typing.get_origin(value) is not None


def _text(value: Any) -> str:
    return str(value).replace("typing.", "")


def _signature(value: Any) -> str:
    """Parameters with types and defaults. A field made anew for each object shows no address.

    Of a pydantic model only names and types: its defaults are in the golden recipes.
    """
    if hasattr(value, "model_fields"):
        fields = (f"{name}: {inspect.formatannotation(field.annotation)}" for name, field in value.model_fields.items())
        return f"({', '.join(fields)})"
    try:
        signature = inspect.signature(value)
    except ValueError:
        return "(...)"
    text = str(signature)
    return text if not dataclasses.is_dataclass(value) else text.replace("<factory>", "...")
