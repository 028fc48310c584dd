"""Seeds and random state of a run, and the switch for deterministic operators."""

import random

import torch


def seed_everything(seed: int, *, deterministic: bool) -> None:
    """Seeds python and torch equally on every rank, so that all ranks initialise the same dense parameters.

    With `deterministic`, torch raises for an operator without a deterministic form, and attention on the CPU pads its
    keys to whole blocks. Later rows then cannot change the rounding of a row (with MKL_CBWR set, see
    launch/README.md)."""
    random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic)


def random_state() -> dict[str, list[int]]:
    """Torch's random state on this rank as integers: of the CPU, and of the current GPU if one is in use."""
    state = {"cpu": torch.get_rng_state().tolist()}
    return state | ({"cuda": torch.cuda.get_rng_state().tolist()} if torch.cuda.is_initialized() else {})


def restore_random_state(state: dict[str, list[int]]) -> None:
    """Sets a state from `random_state`."""
    torch.set_rng_state(torch.tensor(state["cpu"], dtype=torch.uint8))
    if "cuda" in state:
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))
