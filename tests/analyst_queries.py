"""The queries of docs/analysts.md, which the tests run and the benchmark times."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "analysts.md"

_HEADING, _SQL = re.compile(r"^### ", re.MULTILINE), re.compile(r"```sql\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Query:
    """A query, and the heading it stands under."""

    title: str
    sql: str


def queries(page: str | None = None) -> list[Query]:
    """Read every query that stands under a heading of its own, in the page's order."""
    sections = _HEADING.split(PAGE.read_text("utf-8") if page is None else page)[1:]
    return [
        Query(section.partition("\n")[0], found[1].strip().removesuffix(";"))
        for section in sections
        if (found := _SQL.search(section))
    ]
