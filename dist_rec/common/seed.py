"""One place for randomness: the seeds of a run and the switch that makes operators deterministic."""

import os
import random

import torch


def seed_everything(seed: int, *, deterministic: bool) -> None:
    """Seeds python and torch alike on every rank, so that all ranks initialise the same dense parameters.

    With `deterministic`, torch raises where an operator has no deterministic form, attention on the CPU pads to whole blocks,
    and MKL computes a row of a matrix the same way however many rows there are (unless MKL_CBWR is set, or MKL is in use
    already: it reads the variable once). A prediction then has the same bits whatever stands behind it in the batch.
    """
    if deterministic:
        os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")
    random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic)


def random_state() -> dict[str, list[int]]:
    """Torch's random state on this rank, as plain numbers: of the CPU, and of the current GPU if one is in use."""
    state = {"cpu": torch.get_rng_state().tolist()}
    return state | ({"cuda": torch.cuda.get_rng_state().tolist()} if torch.cuda.is_initialized() else {})


def restore_random_state(state: dict[str, list[int]]) -> None:
    """Goes on from what `random_state` gave."""
    torch.set_rng_state(torch.tensor(state["cpu"], dtype=torch.uint8))
    if "cuda" in state:
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))
