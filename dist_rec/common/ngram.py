"""N-grams over the events of a sequence: their declaration, and the numbers that their hashes need. No torch.

After "Scaling Embeddings Outperforms Scaling Experts" (arXiv 2601.21204), over events in the place of words: every
order n and head k has a sub-table, in which a hash of the newest n ids finds a row."""

from math import gcd
from typing import Literal

from pydantic import Field, model_validator

from dist_rec.common.strict import Seed, Strict

HashKind = Literal["mixed", "polynomial"]
Amplify = Literal["layer_norm", "sqrt", "none"]

LARGEST_ORDER = 8
MOST_HEADS = 16
MOST_ROWS = 2**31 - 1
# From a multiple of the base, as a share of it: bigrams of frequent ids collide near multiples (the paper, figure 4).
SMALLEST_DISTANCE = 0.05
_WORD = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15  # the increment of splitmix64


class NgramSpec(Strict):
    """N-grams of one id of a sequence: M = orders x heads sub-tables, order after order, in one fused table."""

    orders: list[int] = Field(
        default=[2, 3], min_length=1, description="Lengths of n-grams, rising; 2 is an event and the one before it."
    )
    heads: int = Field(default=2, ge=1, le=MOST_HEADS, description="Hashes of each order.")
    rows: int | list[int] = Field(
        description="Rows of every sub-table, or a list with those of each: orders x heads, order after order."
    )
    hash: HashKind = Field(
        default="mixed",
        description="mixed: 64 bits, rows are used as by chance. polynomial: the paper's; it collides more.",
    )
    base: int | None = Field(
        default=None, ge=2, description="Of the polynomial, at most the rows. The paper's is the number of ids."
    )
    seed: Seed = Field(default=0, description="Of the mixed hash.")
    gap_seconds: int | None = Field(
        default=None, ge=0, le=MOST_ROWS, description="An n-gram ends at a longer pause between two events."
    )
    amplify: Amplify = Field(
        default="layer_norm",
        description="What follows the average of the id's row and its n-grams: LayerNorm, times sqrt(width), or none.",
    )

    candidate_bigram: bool = Field(
        default=False,
        description="Whether a candidate has n-grams as well, as features: those that it would make as the next event, "
        "the newest event and the candidate first of all, from the same table.",
    )

    @model_validator(mode="after")
    def _check(self) -> "NgramSpec":
        if self.orders != sorted(set(self.orders)) or self.orders[0] < 2 or self.orders[-1] > LARGEST_ORDER:
            raise ValueError(f"orders: expected rising numbers from 2 to {LARGEST_ORDER}, got {self.orders}")
        if isinstance(self.rows, list) and len(self.rows) != self.tables:
            raise ValueError(
                f"rows: expected one number, or {self.tables} ({len(self.orders)} orders x {self.heads} heads), "
                f"got {len(self.rows)}"
            )
        if min(self.table_rows) < 1 or self.total_rows > MOST_ROWS:
            raise ValueError(f"rows: expected at least 1 and in all at most {MOST_ROWS}, got {self.table_rows}")
        if self.hash == "polynomial":
            self._check_polynomial()
        elif self.base is not None:
            raise ValueError(f"base: belongs to hash: polynomial, got base={self.base} with hash: mixed")
        return self

    def _check_polynomial(self) -> None:
        if self.base is None:
            raise ValueError(
                "hash: polynomial needs base: the number of ids as in the paper, or an odd number below the rows"
            )
        for order, rows in zip(self.table_orders, self.table_rows, strict=True):
            where = f"rows {rows} of order {order}"
            if self.base >= rows:
                raise ValueError(
                    f"{where}: expected more rows than base={self.base}, or older events fall on few rows; take more "
                    "rows, or an odd base below them"
                )
            if (divisor := gcd(self.base, rows)) > 1:
                raise ValueError(
                    f"{where}: expected no common divisor with base={self.base}, got {divisor}, which makes n-grams "
                    "collide; add a row, or take a prime number of rows"
                )
            distance = abs(rows - self.base * round(rows / self.base))
            if distance < SMALLEST_DISTANCE * self.base:
                raise ValueError(
                    f"{where}: expected at least {SMALLEST_DISTANCE:.0%} of base={self.base} from a multiple of it, "
                    f"got {distance} rows, where bigrams of frequent ids collide; add {self.base // 3} rows"
                )
        for order in self.orders:
            of_order = [rows for at, rows in zip(self.table_orders, self.table_rows, strict=True) if at == order]
            if len(set(of_order)) < len(of_order):
                raise ValueError(
                    f"rows {of_order} of order {order}: expected different numbers, since heads of a polynomial differ "
                    "in nothing else; give a list, or take hash: mixed, whose heads have a key each"
                )

    @property
    def tables(self) -> int:
        """M, the number of sub-tables, and of ids of each event."""
        return len(self.orders) * self.heads

    @property
    def table_orders(self) -> list[int]:
        return [order for order in self.orders for _ in range(self.heads)]

    @property
    def table_rows(self) -> list[int]:
        return list(self.rows) if isinstance(self.rows, list) else [self.rows] * self.tables

    @property
    def first_rows(self) -> list[int]:
        """Where each sub-table begins in the fused table."""
        return [sum(self.table_rows[:m]) for m in range(self.tables)]

    @property
    def total_rows(self) -> int:
        """Rows of the fused table."""
        return sum(self.table_rows)

    @property
    def longest(self) -> int:
        """Events of the longest n-gram."""
        return self.orders[-1]

    def width(self, dim: int) -> int:
        """Width of the fused table's rows: the M rows of an event are as wide as the row of its id.

        Raises ValueError unless `dim` is a multiple of 4 M, as FBGEMM's tables need."""
        if dim % (4 * self.tables):
            raise ValueError(
                f"expected rows of a multiple of {4 * self.tables} (4 x {len(self.orders)} orders x {self.heads} "
                f"heads), got {dim}; take {-(-dim // (4 * self.tables)) * 4 * self.tables}, or fewer heads"
            )
        return dim // self.tables

    def head_numbers(self) -> list[list[int]]:
        """M rows of signed 64-bit numbers, which `dist_rec.kernels.ngram_ids` documents: order, rows, first row, key of
        the hash, then `base^j mod rows` for j below the order, and zeros up to the longest n-gram."""
        found = []
        for m, (order, rows, first) in enumerate(zip(self.table_orders, self.table_rows, self.first_rows, strict=True)):
            powers = [pow(self.base or 1, j, rows) if j < order else 0 for j in range(self.longest)]
            found.append([order, rows, first, _key(self.seed, m % self.heads), *powers])
        return found


def _key(seed: int, head: int) -> int:
    """Number `head` of the splitmix64 stream of a seed, as a signed number. Heads of a seed have different keys."""
    x = (_spread(seed) + _GOLDEN * (head + 1)) & _WORD
    x = _spread(x)
    return x - 2**64 if x >= 2**63 else x


def _spread(x: int) -> int:
    """The finalizer of splitmix64 (Steele et al., OOPSLA 2014)."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _WORD
    return x ^ x >> 31
