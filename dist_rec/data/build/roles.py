"""What a build reads from its sources: the columns of candidates, of events, of later events and of attributes."""

from collections.abc import Iterable

from dist_rec.data.build.config import BuildConfig, LabelConfig
from dist_rec.data.build.fields import IdConfig, NumberConfig, SideConfig
from dist_rec.data.build.rows import Asked, Rows
from dist_rec.data.build.sources import Source

USER = " user"  # a table of ids by this name cannot be declared
CANDIDATES = "all candidates"  # sources are one word each, so that no table here is called as one of them
PLACED, USERS = '"candidates with requests"', '"users with requests"'


def events(sequence: str) -> str:
    return f"events of {sequence}"


def later(label: str) -> str:
    return f"later events of {label}"


def attributes(source: str) -> str:
    return f"attributes of {source}"


def matched(label: str, place: int) -> str:
    return f"match {place} of {label}"


def every_role(config: BuildConfig, sources: dict[str, Source]) -> dict[str, Rows]:
    """Rows by name, the candidates first."""
    found = [_candidates(config, sources)]
    found += [_events(config, sources, name) for name in config.sequences]
    found += [_later(sources, name, of) for name, of in config.requests.labels.items() if of.source is not None]
    found += [_attributes(config, sources, name) for name in config.attributes]
    return {rows.name: rows for rows in found}


def _candidates(config: BuildConfig, sources: dict[str, Source]) -> Rows:
    of, key = config.requests, "requests"
    asked = [
        Asked("user", of.user, f"{key}.user", "id", USER, needed=True),
        Asked("time", of.time.column, f"{key}.time", "time", time=of.time, needed=True),
    ]
    asked += [Asked(f"page {i}", name, f"{key}.page", "raw", needed=True) for i, name in enumerate(of.page)]
    asked += [Asked(f"order {i}", name, f"{key}.order", "raw") for i, name in enumerate(of.order)]
    if config.split.column is not None:
        asked.append(Asked("folder", config.split.column, "split.column", "folder", needed=True))
    asked += _fields(config, "context", f"{key}.context", of.context, {}, needed=False)
    asked += _fields(config, "", key, of.ids, of.side, needed=True)
    asked += _numbers("number", key, of.numbers)
    asked += _numbers("context number", f"{key}.context_numbers", of.context_numbers)
    for name, label in of.labels.items():
        place = f"{key}.labels.{name}"
        if label.column is not None:
            asked.append(Asked(f"label {name}", label.column, place, "label", at_least=label.at_least, needed=True))
        for number, column in enumerate(label.match.values()):
            asked.append(Asked(matched(name, number), column, f"{place}.match", "id", matched(name, number)))
    return Rows(CANDIDATES, sources[of.source], asked, key, of.where)


def _events(config: BuildConfig, sources: dict[str, Source], name: str) -> Rows:
    of, key = config.sequences[name], f"sequences.{name}"
    asked = [
        Asked("user", of.user, f"{key}.user", "id", USER, needed=True),
        Asked("time", of.time.column, f"{key}.time", "time", time=of.time, needed=True),
        *(Asked(f"order {i}", column, f"{key}.order", "raw") for i, column in enumerate(of.order)),
        *_fields(config, "", key, of.ids, of.side, needed=True),
        *_numbers("number", key, of.numbers),
    ]
    return Rows(events(name), sources[of.source], asked, key, of.where)


def _later(sources: dict[str, Source], name: str, of: LabelConfig) -> Rows:
    key = f"requests.labels.{name}"
    assert of.source is not None and of.user is not None and of.time is not None, "checked with the build file"
    asked = [
        Asked("user", of.user, f"{key}.user", "id", USER, needed=True),
        Asked("time", of.time.column, f"{key}.time", "time", time=of.time, needed=True),
    ]
    for number, column in enumerate(of.match):
        asked.append(Asked(matched(name, number), column, f"{key}.match", "id", matched(name, number), needed=True))
    return Rows(later(name), sources[of.source], asked, key, of.where)


def _attributes(config: BuildConfig, sources: dict[str, Source], source: str) -> Rows:
    of = config.attributes[source]
    asked = {
        "key": Asked("key", of.key, f"attributes.{source}.key", "id", of.of, rows=_rows(config, of.of), needed=True)
    }
    for place, ids, side in config.owners:
        for name, field in ids.items():
            column = config.attributes_of(field.column)
            if column is not None and column[0] == source:
                table = field.table or name
                named = f"{column[1]} of {table}"
                rows = _rows(config, table)
                asked[named] = Asked(
                    named, column[1], f"{place}.{name}", "id", table, rows=rows, needed=rows is not None
                )
        for name, value in side.items():
            column = config.attributes_of(value.column)
            if column is not None and column[0] == source:
                named = f"{column[1]} as a value"
                asked[named] = Asked(named, column[1], f"{place}.{name}", "side", values=_values(value))
    key = f"attributes.{source}"
    asked |= {column.name: column for column in _numbers("number", f"{key}.numbers", of.numbers)}
    for name, field in of.lists.items():
        named, rows = f"list {name}", _rows(config, field.table)
        asked[named] = Asked(
            named, field.column, f"{key}.lists.{name}", "list", field.table, rows=rows, split=field.split
        )
    for name, vector in of.vectors.items():
        asked[f"vector {name}"] = Asked(
            f"vector {name}", vector.column, f"{key}.vectors.{name}", "vector", dim=vector.dim
        )
    return Rows(attributes(source), sources[source], list(asked.values()), f"attributes.{source}")


def _fields(
    config: BuildConfig, kind: str, key: str, ids: dict[str, IdConfig], side: dict[str, SideConfig], *, needed: bool
) -> Iterable[Asked]:
    """Fields with columns of their own. The first id is what the row is about, so that it is needed."""
    for place, (name, of) in enumerate(ids.items()):
        if config.attributes_of(of.column) is None:
            table = of.table or name
            rows = _rows(config, table)
            must = (needed and place == 0) or rows is not None  # a range has no number for a missing id
            yield Asked(f"{kind or 'id'} {name}", of.column, f"{key}.{name}", "id", table, rows=rows, needed=must)
    for name, of in side.items():
        if config.attributes_of(of.column) is None:
            yield Asked(f"side {name}", of.column, f"{key}.{name}", "side", values=_values(of))


def _numbers(kind: str, key: str, numbers: dict[str, NumberConfig]) -> Iterable[Asked]:
    for name, of in numbers.items():
        yield Asked(f"{kind} {name}", of.column, f"{key}.{name}", "number")


def _rows(config: BuildConfig, table: str) -> int | None:
    return config.tables[table].rows if table in config.tables and not config.tables[table].is_open else None


def _values(of: SideConfig) -> tuple[str, ...] | None:
    return None if of.values is None else tuple(of.values)
