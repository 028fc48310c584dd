"""A survey of a whole dataset, and what in it a person should look at."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dist_rec.common.ngram import NgramSpec
from dist_rec.data.attribute_store import open_attributes
from dist_rec.data.columns import CANDIDATE
from dist_rec.data.inspect import DatasetReport, inspect_dataset, split_folders
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.data.survey.alone import Alone, features_alone
from dist_rec.data.survey.between import MUCH, Between, between, repeated
from dist_rec.data.survey.facts import SplitFacts, facts_of

TRAIN = "train"


@dataclass(frozen=True)
class Survey:
    """`facts` of every split, `between` of each split but the first one, which is called train if there is such a one,
    `alone` of this first split; `look`: sentences about what is strange, none where nothing is."""

    schema: Schema
    report: DatasetReport
    facts: list[SplitFacts]
    between: list[Between]
    alone: list[Alone]
    look: list[str]


def survey(path: Path, ngram: Mapping[str, NgramSpec | None] | None = None) -> Survey:
    """Raises ConfigError for the schema of the dataset, and DataError for its files or if it has no split."""
    report = inspect_dataset(path, ngram)
    schema = load_schema(path, ngram=ngram)
    folders = split_folders(Path(path))
    folders = sorted(folders, key=lambda folder: folder.name != TRAIN)
    facts = [facts_of(folder, schema) for folder in folders]
    first = f"{CANDIDATE}.{schema.candidate.ids[0].name}"
    others = [between(facts[0], other, first) for other in facts[1:]]
    alone = features_alone(folders[0], schema, open_attributes(path, schema))
    return Survey(schema, report, facts, others, alone, list(_strange(facts, others, alone)))


def _strange(facts: list[SplitFacts], others: list[Between], alone: list[Alone]) -> list[str]:
    train, said = facts[0].name, []
    for of in alone:
        if of.leaks:
            said.append(
                f"{of.feature} alone tells {of.task} with an AUC of {of.auc:.3f}: expected nothing that is known only "
                "after the label, such as a copy of it or an event that it makes"
            )
    for of in facts:
        if count := repeated(of):
            said.append(f"{of.name}: {count:,} requests are equal to another one in all that they hold")
        if of.at_once:
            said.append(
                f"{of.name}: {of.at_once:,} requests have an event of their own second; it may be what they caused"
            )
    for of in others:
        if of.same:
            said.append(f"{of.split}: {of.same:,} requests are in {train} too")
        if of.later:
            said.append(
                f"{of.later:,} requests of {train} are not before the first one of {of.split}: a model learns from "
                f"what comes after it, unless {of.split} is of other users"
            )
        said += [
            f"{of.split}: {name} has drifted from {train} by {distance:.2f}"
            for name, distance in of.drift.items()
            if distance > MUCH
        ]
    return said
