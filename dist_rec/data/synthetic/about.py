"""What `dist-rec data synth` has made, in lines for its user."""

from pathlib import Path
from typing import Any


def about(out: Path, kind: str, stats: dict[str, Any]) -> list[str]:
    """Lines about the dataset folder `out` of a kind, with what its stats.json holds."""
    rows = ", ".join(f"{name} {split['rows']} requests" for name, split in stats.items())
    return [f"{out}: {rows}", *ABOUT[kind](stats)]


def _history(stats: dict[str, Any]) -> list[str]:
    test = stats["test"]
    lines = [
        f"duplicate tokens in a batch of 64 requests: {test['duplicate_share']:.0%}",
        f"test AUC: best reachable {test['best_auc']:.4f}, popularity {test['popularity_auc']:.4f}",
    ]
    if "forget_share" in test:
        best = {domain: test[f"best_auc_{domain}"] for domain in ("forget", "retain")}
        told = ", ".join(f"{domain} {value:.4f}" for domain, value in best.items())
        lines.append(f"{test['forget_share']:.0%} of the events are of the forget domain; best reachable AUC: {told}")
    return lines


def _three(stats: dict[str, Any]) -> list[str]:
    test, lines = stats["test"], []
    for task, best in test["best_auc"].items():
        crossing = test["no_interaction_auc"].get(task)
        without = "" if crossing is None else f", without crossing sequences {crossing:.4f}"
        popularity = test["popularity_auc"][task]
        lines.append(f"test AUC of {task}: best reachable {best:.4f}, popularity {popularity:.4f}{without}")
    return lines


def _delayed(stats: dict[str, Any]) -> list[str]:
    train, test = stats["train"], stats["test"]
    return [
        f"at the last request of train, {train['immature_share']:.1%} of its rows are within the horizon, and "
        f"{train['arrived_share']:.1%} of its labels of 1 have arrived",
        f"test AUC: best reachable {test['best_auc']:.4f}, with feedback {test['best_auc_with_feedback']:.4f}, "
        f"popularity {test['popularity_auc']:.4f}",
    ]


ABOUT = {"history": _history, "three": _three, "delayed": _delayed}
