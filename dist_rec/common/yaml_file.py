"""YAML files of users: plain data in UTF-8, every key once, errors with their place."""

import codecs
from pathlib import Path
from typing import Any

import yaml

from dist_rec.common.strict import ConfigError

MERGE_TAG = "tag:yaml.org,2002:merge"


def read_yaml(path: Path, missing: str = "no such file") -> dict[str, Any]:
    """A YAML mapping from a file in UTF-8. Raises ConfigError, with `missing` in its message for a missing file."""
    try:
        content = path.read_bytes()
        text = content.removeprefix(codecs.BOM_UTF8).decode()  # some editors put a byte order mark in front
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{path}: {missing}") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: expected a YAML file, got a folder") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        came = f"a byte {error.object[error.start]:#04x} in line {line}"
        raise ConfigError(f"{path}: expected text in UTF-8, got {came}; save the file as UTF-8") from error
    if "\0" in text:
        raise ConfigError(f"{path}: expected text in UTF-8, got zero bytes, as in UTF-16; save the file as UTF-8")
    tree = _parse(text, f"{path}: not valid YAML")
    if not isinstance(tree, dict):
        came = "nothing" if tree is None else type(tree).__name__
        raise ConfigError(f"{path}: expected a mapping of keys at the top, got {came}")
    return tree


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Sets one `a.b.c=value` in a tree of mappings, in place; the value is YAML. Raises ConfigError."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override}: expected key=value, for example model.longer.k=32")
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override}: '{parent}' holds a value, not a group of keys")
    tree[last] = _parse(text, f"--set {override}: the value is not valid YAML")


class _OnceLoader(yaml.SafeLoader):
    """Accepts plain data only, and every key of a mapping once: plain YAML would drop all but the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name = key.value if key.tag == MERGE_TAG else self.construct_object(key)
                line = key.start_mark.line + 1
                if name in lines:
                    raise yaml.YAMLError(
                        f"the key '{key.value}' stands twice, in line {lines[name]} and in line {line}; keep one"
                    )
                lines[name] = line
        return node


def _parse(text: str, wrong: str) -> Any:
    """The value of a YAML text; `wrong` begins the ConfigError for text that is not YAML."""
    try:
        return yaml.load(text, Loader=_OnceLoader)
    except RecursionError as error:
        raise ConfigError(f"{wrong}: it is nested too deeply, or holds itself") from error
    # PyYAML raises these for a value that does not match its tag: 2024-13-01, !!timestamp x, !!bool x.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise ConfigError(f"{wrong}: {error}") from error
