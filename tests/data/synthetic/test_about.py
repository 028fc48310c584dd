from pathlib import Path

from dist_rec.data.synthetic.about import about

ROWS = {"train": {"rows": 8}, "valid": {"rows": 1}}
FIRST = "d: train 8 requests, valid 1 requests, test 1 requests"


def test_history() -> None:
    test = {"rows": 1, "duplicate_share": 0.25, "best_auc": 0.9, "popularity_auc": 0.6}
    lines = [
        FIRST,
        "duplicate tokens in a batch of 64 requests: 25%",
        "test AUC: best reachable 0.9000, popularity 0.6000",
    ]
    assert about(Path("d"), "history", ROWS | {"test": test}) == lines
    domain = {"forget_share": 0.2, "best_auc_forget": 0.8, "best_auc_retain": 0.7}
    told = "20% of the events are of the forget domain; best reachable AUC: forget 0.8000, retain 0.7000"
    assert about(Path("d"), "history", ROWS | {"test": test | domain}) == [*lines, told]


def test_three() -> None:
    test = {
        "rows": 1,
        "best_auc": {"click": 0.9, "conversion": 0.8},
        "popularity_auc": {"click": 0.6, "conversion": 0.5},
        "no_interaction_auc": {"click": 0.7},
    }
    assert about(Path("d"), "three", ROWS | {"test": test}) == [
        FIRST,
        "test AUC of click: best reachable 0.9000, popularity 0.6000, without crossing sequences 0.7000",
        "test AUC of conversion: best reachable 0.8000, popularity 0.5000",
    ]


def test_delayed() -> None:
    test = {"rows": 1, "best_auc": 0.77, "best_auc_with_feedback": 0.9, "popularity_auc": 0.6}
    train = {"rows": 8, "immature_share": 0.09, "arrived_share": 0.976}
    assert about(Path("d"), "delayed", ROWS | {"train": train, "test": test}) == [
        FIRST,
        "at the last request of train, 9.0% of its rows are within the horizon, and 97.6% of its labels of 1 have "
        "arrived",
        "test AUC: best reachable 0.7700, with feedback 0.9000, popularity 0.6000",
    ]
