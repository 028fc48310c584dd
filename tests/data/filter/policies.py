"""Policies and filters for the tests: what happens to an event depends on its item alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_rec.common.strict import Strict
from dist_rec.data.filter.actions import Action
from dist_rec.data.filter.config import FilterConfig
from dist_rec.data.filter.event_filter import EventFilter
from dist_rec.data.filter.events import Events
from dist_rec.data.filter.policy import FilterPolicy
from dist_rec.data.schema import Schema


class ByItem(FilterPolicy):
    """`actions[item]` for events with an item, KEEP for others."""

    class Config(Strict):
        actions: dict[int, str]

    options: Config

    def decide(self, events: Events) -> NDArray[np.uint8]:
        if "item" not in events.names:
            return np.zeros(len(events), np.uint8)
        table = np.zeros(50, np.uint8)
        for item, action in self.options.actions.items():
            table[item] = Action[action.upper()]
        return table[events.field("item")]


def filter_by_item(schema: Schema, actions: dict[int, str], *, training: bool = True, **more: Any) -> EventFilter:
    return EventFilter(ByItem(ByItem.Config(actions=actions), FilterConfig(), schema), training, **more)


def all_items(action: str, items: range = range(0, 50, 3)) -> dict[int, str]:
    """The action for every third item."""
    return dict.fromkeys(items, action)
