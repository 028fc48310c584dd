"""Ids and values as numbers, by what was known when training ended.

A table of ids has the map `ids of <table>` (value, id); what is not in it shares the first ids. Values of few have a
map, too. All maps are ordered by frequency, then by value, so that the same logs give the same numbers."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from dist_rec.data.build.config import BuildConfig, TableConfig
from dist_rec.data.build.database import Database, literal, quoted
from dist_rec.data.build.fields import IdConfig, SideConfig
from dist_rec.data.build.roles import CANDIDATES, PLACED, USERS, attributes, events

WHAT = "numbering the ids"
ROWS_AT_ONCE = 100_000


@dataclass(frozen=True)
class Owner:
    """Rows `o` of a relation with columns `<kind> <field>`; training knows those for which `known` holds."""

    name: str
    relation: str
    known: str
    kind: str
    ids: dict[str, IdConfig]
    side: dict[str, SideConfig]


def owners_of(config: BuildConfig, fitted: tuple[str, ...]) -> list[Owner]:
    """Context, candidates and sequences; `fitted`: the splits whose candidates training knows."""
    first = f"o.split IN ({', '.join(map(literal, fitted))})"
    found = [
        Owner("context", f"{PLACED} o", first, "context", config.requests.context, {}),
        Owner(CANDIDATES, f"{PLACED} o", first, "id", config.requests.ids, config.requests.side),
    ]
    for name, of in config.sequences.items():
        relation = f"{quoted(events(name))} o JOIN {USERS} u ON o.user = u.user"
        found.append(Owner(name, relation, "o.time < u.known_until", "id", of.ids, of.side))
    return found


class Numbers:
    """Makes the maps, and says where they are.

    `sizes` table -> its number of ids; `values` (owner, side value) -> the texts in the order of their numbers, without
    the first of those that were fitted, which stands for all others."""

    def __init__(self, database: Database, config: BuildConfig, text: set[str], fitted: tuple[str, ...]) -> None:
        self.database, self.config, self.owners, self.text = database, config, owners_of(config, fitted), text
        self.sizes = {table: self._number_table(table) for table in config.table_names}
        self.values = {(of.name, name): self._number_side(of, name) for of in self.owners for name in of.side}
        for source in config.attributes:
            self._number_attributes(source)

    def joins(self, owner: Owner) -> str:
        """LEFT JOINs of what the fields of an owner's rows `o` are numbered by."""
        found: dict[str, str] = {}
        for name, of in owner.ids.items():
            if (attribute := self.config.attributes_of(of.column)) is not None:
                found |= self._attribute_join(owner, attribute[0])
            elif self.is_mapped(table := of.table or name):
                alias = quoted(f"{owner.kind} {name}, id")
                found[alias] = f"{quoted(ids_of(table))} {alias} ON {alias}.value = o.{quoted(f'{owner.kind} {name}')}"
        for name, of in owner.side.items():
            if (attribute := self.config.attributes_of(of.column)) is not None:
                found |= self._attribute_join(owner, attribute[0])
            alias = quoted(f"{owner.kind} {name}, value")
            found[alias] = f"{quoted(values_of(owner.name, name))} {alias} ON {alias}.value = {self._text(owner, name)}"
        return " ".join(f"LEFT JOIN {join}" for join in found.values())

    def id_of(self, owner: Owner, name: str) -> str:
        """The number of a field of row `o`, with the joins of the owner."""
        of = owner.ids[name]
        table = of.table or name
        if (attribute := self.config.attributes_of(of.column)) is not None:
            return f"coalesce({_joined(owner, attribute[0])}.{quoted(f'{attribute[1]} of {table}')}, 0)"
        number = f"{quoted(f'{owner.kind} {name}, id')}.id"
        return self._numbered(table, f"o.{quoted(f'{owner.kind} {name}')}", number)

    def side_of(self, owner: Owner, name: str) -> str:
        return f"coalesce({quoted(f'{owner.kind} {name}, value')}.id, 0)"

    def unknown(self, owner: Owner, name: str) -> str:
        """Whether the field of row `o` has an id that training did not know, or its attributes have no such row; with
        the joins of the owner."""
        of = owner.ids[name]
        if (attribute := self.config.attributes_of(of.column)) is not None:
            return f"{_joined(owner, attribute[0])}.key IS NULL"  # an id without a row
        if self._table(of.table or name).rows is not None:
            return "false"
        return f"{quoted(f'{owner.kind} {name}, id')}.id IS NULL"

    def keyed(self, table: str) -> str:
        """A JOIN of rows `a` with a key of a table, that leaves those whose key has a number of its own."""
        if not self.is_mapped(table):
            return ""
        return f"JOIN {quoted(ids_of(table))} k ON k.value = a.key"

    def key_of(self, table: str) -> str:
        """The number of the key of a row `a`, with the join of `keyed`."""
        return "k.id" if self.is_mapped(table) else "a.key"

    def join_of(self, table: str, value: str) -> tuple[str, str]:
        """A JOIN for a value of a table, and its number with it."""
        if not self.is_mapped(table):
            return "", value
        return f"LEFT JOIN {quoted(ids_of(table))} v ON v.value = {value}", self._numbered(table, value, "v.id")

    def _numbered(self, table: str, value: str, number: str) -> str:
        if self._table(table).rows is not None:
            return f"coalesce({number if self.is_mapped(table) else value}, 0)"
        others = self._table(table).others
        other = "0" if others == 1 else f"coalesce(md5_number_lower({value}::VARCHAR) % {others}, 0)"
        return f"coalesce({number}, {other})"

    def _number_table(self, table: str) -> int:
        of = self._table(table)
        if of.rows is not None:
            if self.is_mapped(table):
                self._hash_texts(table)
            return of.rows
        counts = (
            " UNION ALL ".join([*self._counts(table), *self._list_counts(table)])
            or "SELECT NULL AS value, 0 AS c WHERE false"
        )
        self.database.run(
            f"CREATE TABLE {quoted(ids_of(table))} AS SELECT value, {of.others} + row_number() OVER (ORDER BY c DESC, "
            f"value) - 1 AS id, c::BIGINT AS count FROM (SELECT value, sum(c) AS c FROM ({counts}) WHERE value IS NOT "
            f"NULL GROUP BY value HAVING sum(c) >= {of.min_count})",
            WHAT,
        )
        return of.others + self.database.one(f"SELECT count(*) FROM {quoted(ids_of(table))}", WHAT)[0]

    def _hash_texts(self, table: str) -> None:
        """The map of a table of text without a range: every text that occurs, and 64 bits of its hash."""
        columns = [
            f"SELECT key AS value FROM {quoted(attributes(source))}"
            for source, of in self.config.attributes.items()
            if of.of == table
        ]
        for owner in self.owners:
            for name in (name for name, of in owner.ids.items() if (of.table or name) == table):
                if (attribute := self.config.attributes_of(owner.ids[name].column)) is None:
                    columns.append(f"SELECT o.{quoted(f'{owner.kind} {name}')} AS value FROM {owner.relation}")
                else:
                    column = quoted(f"{attribute[1]} of {table}")
                    columns.append(f"SELECT {column} AS value FROM {quoted(attributes(attribute[0]))}")
        every = f"SELECT DISTINCT value FROM ({' UNION ALL '.join(columns)}) WHERE value IS NOT NULL ORDER BY value"
        self.database.run(f"CREATE TABLE {quoted(ids_of(table))} (value VARCHAR, id BIGINT)", WHAT)
        for batch in self.database.stream(every, WHAT, ROWS_AT_ONCE):
            texts = batch.column("value")
            ids = pa.array([hash_of_text(text) for text in texts.to_pylist()], pa.int64())
            self.database.insert(quoted(ids_of(table)), pa.table({"value": texts, "id": ids}), WHAT)

    def _counts(self, table: str) -> Iterable[str]:
        """SELECTs of values and how often training sees them."""
        for owner in self.owners:
            for name, of in owner.ids.items():
                if (of.table or name) != table:
                    continue
                if (attribute := self.config.attributes_of(of.column)) is None:
                    value = f"o.{quoted(f'{owner.kind} {name}')}"
                    yield f"SELECT {value} AS value, count(*) AS c FROM {owner.relation} WHERE {owner.known} GROUP BY 1"
                    continue
                source, column = attribute
                key = f"o.{quoted(f'{owner.kind} {self._key_field(owner, source)}')}"
                known = f"FROM {owner.relation} WHERE {owner.known}"
                joined = f"(SELECT {key} AS key, count(*) AS c {known} GROUP BY 1) k"
                yield (
                    f"SELECT a.{quoted(f'{column} of {table}')} AS value, sum(k.c) AS c FROM {joined} JOIN "
                    f"{quoted(attributes(source))} a ON a.key = k.key GROUP BY 1"
                )

    def _list_counts(self, table: str) -> Iterable[str]:
        """As `_counts`, of lists of attributes: an id counts as often as those whose list it is in."""
        for source, of in self.config.attributes.items():
            for name in (name for name, field in of.lists.items() if field.table == table):
                for owner in self.owners:
                    if (field := self.config.key_field(owner.ids, of.of)) is None:
                        continue
                    key = f"o.{quoted(f'{owner.kind} {field}')}"
                    joined = (
                        f"(SELECT {key} AS key, count(*) AS c FROM {owner.relation} WHERE {owner.known} GROUP BY 1) k"
                    )
                    entries = f"unnest({quoted(f'list {name}')}) AS value"
                    every = f"(SELECT key, {entries} FROM {quoted(attributes(source))}) a"
                    yield f"SELECT a.value, sum(k.c) AS c FROM {joined} JOIN {every} ON a.key = k.key GROUP BY 1"

    def _number_side(self, owner: Owner, name: str) -> list[str]:
        of, map_ = owner.side[name], quoted(values_of(owner.name, name))
        if of.values is not None:
            rows = ", ".join(f"({literal(value)}, {number})" for number, value in enumerate(of.values))
            self.database.run(f"CREATE TABLE {map_} AS SELECT * FROM (VALUES {rows}) AS v(value, id)", WHAT)
            return list(of.values)
        if (attribute := self.config.attributes_of(of.column)) is None:
            join, value = "", f"o.{quoted(f'side {name}')}"
        else:
            key = f"o.{quoted(f'{owner.kind} {self._key_field(owner, attribute[0])}')}"
            join = f"JOIN {quoted(attributes(attribute[0]))} a ON a.key = {key}"
            value = f"a.{quoted(f'{attribute[1]} as a value')}"
        self.database.run(
            f"CREATE TABLE {map_} AS SELECT value, row_number() OVER (ORDER BY c DESC, value) AS id FROM (SELECT "
            f"{value} AS value, count(*) AS c FROM {owner.relation} {join} WHERE {owner.known} GROUP BY 1) "
            f"WHERE value IS NOT NULL QUALIFY id <= {of.most}",
            WHAT,
        )
        return [row[0] for row in self.database.rows(f"SELECT value FROM {map_} ORDER BY id", WHAT)]

    def _number_attributes(self, source: str) -> None:
        """The table of attributes with ids as numbers, one row for each key."""
        columns, joins = [], []
        for owner in self.owners:
            for name, of in owner.ids.items():
                attribute, table = self.config.attributes_of(of.column), of.table or name
                if attribute is None or attribute[0] != source:
                    continue
                column = quoted(f"{attribute[1]} of {table}")
                alias = quoted(f"m {attribute[1]} of {table}")
                number = self._numbered(table, f"o.{column}", f"{alias}.id")
                if f"{number} AS {column}" in columns:
                    continue
                columns.append(f"{number} AS {column}")
                if self.is_mapped(table):
                    joins.append(f"LEFT JOIN {quoted(ids_of(table))} {alias} ON {alias}.value = o.{column}")
        values = [
            quoted(f"{attribute[1]} as a value")
            for owner in self.owners
            for of in owner.side.values()
            if (attribute := self.config.attributes_of(of.column)) is not None and attribute[0] == source
        ]
        chosen = ", ".join(["o.key", *columns, *(f"o.{value}" for value in dict.fromkeys(values))])
        self.database.run(
            f"CREATE TABLE {quoted(numbered(source))} AS SELECT {chosen} FROM {quoted(attributes(source))} o "
            + " ".join(joins),
            WHAT,
        )

    def _attribute_join(self, owner: Owner, source: str) -> dict[str, str]:
        alias, key = _joined(owner, source), f"o.{quoted(f'{owner.kind} {self._key_field(owner, source)}')}"
        return {alias: f"{quoted(numbered(source))} {alias} ON {alias}.key = {key}"}

    def _text(self, owner: Owner, name: str) -> str:
        if (attribute := self.config.attributes_of(owner.side[name].column)) is None:
            return f"o.{quoted(f'side {name}')}"
        return f"{_joined(owner, attribute[0])}.{quoted(f'{attribute[1]} as a value')}"

    def _key_field(self, owner: Owner, source: str) -> str:
        found = self.config.key_field(owner.ids, self.config.attributes[source].of)
        assert found is not None, "checked with the build file"
        return found

    def _table(self, table: str) -> TableConfig:
        return self.config.tables.get(table, TableConfig())

    def is_open(self, table: str) -> bool:
        """Whether its ids have no range, and are numbers of 64 bits."""
        return self._table(table).is_open

    def is_mapped(self, table: str) -> bool:
        """Whether ids get their numbers from a map: of a vocabulary, or of hashes of text."""
        return self._table(table).rows is None or (self.is_open(table) and table in self.text)


def _joined(owner: Owner, source: str) -> str:
    """The attributes beside the rows of an owner."""
    return quoted(f"{owner.kind} and {source}")


def ids_of(table: str) -> str:
    return f"ids of {table}"


def values_of(owner: str, name: str) -> str:
    return f"values of {owner} {name}"


def numbered(source: str) -> str:
    return f"attributes of {source}, numbered"


def hash_of_text(text: str) -> int:
    """The first 64 bits of BLAKE2b of a text in UTF-8, as a number with a sign: the same everywhere."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
