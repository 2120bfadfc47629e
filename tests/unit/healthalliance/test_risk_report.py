"""An analyst's report: a page that needs nothing else, says what is known, and leaves out what is too small."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from connectors.overview import Day, Drift, Events, Overview, Performance, Rejections, RiskGroup
from healthalliance.risk_report import as_html, reasons, volume
from tests.unit.model_training.test_report import Page

NOW = datetime(2025, 6, 15, 12, tzinfo=UTC)
FIRST = date(2025, 6, 1)
UNTOLD = Day("embl", FIRST, None, None, None, None, None, None)


def overview() -> Overview:
    days = [
        Day("ukhd", FIRST + timedelta(days=number), 40 + number, 20, 10, 12, 18 + number, 0.1 + number / 100)
        for number in range(14)
    ]
    days[3] = replace(days[3], high=None, medium=None, low=None)
    return Overview(
        days=(UNTOLD, *days),
        performance=(
            Performance("embl", "3", "champion", None, None, None, None, None, None),
            Performance("ukhd", "3", "champion", 200, 0.15, 0.14, 1.07, 0.11, 0.712),
        ),
        risk_groups=tuple(RiskGroup("ukhd", "3", "champion", one, 100, 0.1 * one, 0.12 * one) for one in (1, 2)),
        drift=(Drift("ukhd", "age_years", "3", 2000, 0.31, NOW), Drift("ukhd", "num_conditions", "3", 2000, 0.02, NOW)),
        rejections=(Rejections("ukhd", FIRST, "structure", 12), Rejections("ukhd", FIRST, "not-json", None)),
        events=(Events("ukhd", 600, 90, 20, 0, 10, 1 / 72, NOW),),
    )


@pytest.fixture(scope="module")
def html() -> str:
    return as_html(overview(), FIRST, NOW, ("embl", "ukhd"))


def test_the_page_is_well_formed_and_needs_nothing_else(html: str) -> None:
    page = Page(html)
    assert page.open == []
    assert {name for name, _ in page.elements} & {"script", "link", "iframe"} == set()
    sources = [attributes.get("src") or attributes.get("srcset") for _, attributes in page.elements]
    assert all(one.startswith("data:image/svg+xml;base64,") for one in sources if one)
    assert not re.search(r"https?://", re.sub(r"data:[^\"]*", "", html))


def test_every_picture_has_a_dark_one_and_words(html: str) -> None:
    page = Page(html)
    images = [attributes for name, attributes in page.elements if name == "img"]
    dark = [attributes for name, attributes in page.elements if name == "source"]
    assert len(images) == len(dark) == 4
    assert all(one["alt"] for one in images)
    assert {one["media"] for one in dark} == {"(prefers-color-scheme: dark)"}


def test_it_says_what_is_known_and_that_the_rest_is_too_small(html: str) -> None:
    text = " ".join(Page(html.replace("</td>", " </td>").replace("</th>", " </th>")).text.split())
    for said in (
        "ukhd champion 3 200 15.0 % 14.0 % 1.07 0.712 0.1100",
        "age years 0.310 num conditions 0.020",
        "No day has ten scores.",
        "Fewer than ten outcomes: embl champion 3",
        "1.4 %of ukhd's events rejected",
    ):
        assert said in text
    assert "None" not in text


def test_the_mean_weighs_each_day_by_its_scores() -> None:
    days = [Day("ukhd", FIRST, 10, 0, 0, 0, 10, 0.1), Day("ukhd", FIRST, 30, 0, 0, 0, 30, 0.3), UNTOLD]
    found = volume("ukhd", days)
    assert found.encounters == 40
    assert found.mean_probability == pytest.approx(0.25)


def test_reasons_are_added_up_and_days_that_are_left_out_are_counted() -> None:
    rows = [Rejections("ukhd", FIRST, "structure", number) for number in (12, None, 30)]
    [found] = reasons(rows)
    assert (found.rejected, found.days_untold) == (42, 1)


def test_a_page_of_nothing_says_so() -> None:
    page = Page(as_html(Overview((), (), (), (), (), ()), FIRST, NOW, ("ukhd",)))
    assert page.open == []
    for said in ("Nothing arrived.", "No model has ten outcomes yet", "No reading yet", "Nothing was rejected since"):
        assert said in page.text
