"""One place for randomness: the seeds of a run and the switch that makes operators deterministic."""

import random

import torch


def seed_everything(seed: int, *, deterministic: bool) -> None:
    """Seeds python and torch alike on every rank, so that all ranks initialise the same dense parameters.

    With `deterministic`, torch raises where an operator has no deterministic form.
    """
    random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic)
