"""N-grams that a command is told: `history.item={rows: 100000, heads: 2}`."""

from collections.abc import Iterable

import yaml

from dist_rec.common.ngram import NgramSpec
from dist_rec.common.strict import ConfigError, check


def ngrams_told(told: Iterable[str]) -> dict[str, NgramSpec]:
    """Field -> its n-grams. Raises ConfigError for what is no field with a group of keys."""
    found = {}
    for text in told:
        field, is_there, keys = text.partition("=")
        try:
            tree = yaml.safe_load(keys)
        except yaml.YAMLError:
            tree = None
        if not is_there or not isinstance(tree, dict):
            raise ConfigError(f"--ngram {text}: expected a field and its keys, such as 'history.item={{rows: 100000}}'")
        found[field] = check(NgramSpec, tree, f"--ngram {field}")
    return found
