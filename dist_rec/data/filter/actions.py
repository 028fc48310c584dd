"""What is done with an event that is filtered, and why.

The actions are those of token-level filtering of training data (arXiv 2601.21571), for events: its loss masking is
MASK, its removal is HIDE."""

from enum import IntEnum, IntFlag


class Action(IntEnum):
    """From the weakest to the strongest: of several reasons the strongest action counts.

    | action | as a candidate | in a history | rows of its ids |
    | --- | --- | --- | --- |
    | KEEP | trained | seen | read and trained |
    | MASK | not trained | seen | read, and trained by candidates that see it |
    | HIDE | not trained | HIDDEN in its place; slot and time stay | neither |
    | KEYMASK | not trained | nobody sees it; its slot stays empty | neither |
    | DROP | gone | gone, the sequence is shorter | neither |
    """

    KEEP = 0
    MASK = 1
    HIDE = 2
    KEYMASK = 3
    DROP = 4


class Reason(IntFlag):
    """Why an event is filtered: the bits of a column `reason`."""

    PRIVACY = 1
    UNLEARN = 2
    BOT = 4
    SENSITIVE = 8
    LOW_QUALITY = 16


ALL_REASONS = sum(Reason)
