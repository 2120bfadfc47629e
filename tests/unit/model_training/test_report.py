"""The report: a JSON document that holds all, and a page that needs nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from model_training.baselines import Baseline
from model_training.evaluation import HeldOut, assess, importance
from model_training.gate import Verdict
from model_training.report import (
    DataFacts,
    ModelFacts,
    Part,
    PartitionRead,
    Report,
    as_html,
    as_json,
)
from schemas.features import FEATURE_NAMES
from schemas.model import Thresholds
from tests.unit.model_training.datasets import dataset
from tests.unit.model_training.test_evaluation import GENDER, score

_VOID = {"meta", "img", "source", "link", "br", "hr", "input"}


@pytest.fixture(scope="module")
def report() -> Report:
    some = dataset(1, 1500)
    some.rows[:3, GENDER] = 2.0
    names = np.random.default_rng(1).choice(["dkfz", "embl"], len(some))
    held_out = HeldOut(some.rows, score(some.rows), some.readmitted, some.persons, names, stays_per_day=4.0)
    return Report(
        made_at="2025-11-25T01:40:00+00:00",
        model=ModelFacts("readmission-risk", "ab" * 32, 1, FEATURE_NAMES, "isotonic", 0.1, 0.2, 3e-8),
        data=DataFacts("cd" * 32, (PartitionRead("features.dkfz", "id", 0, 7),), 9, {"not inpatient": 8}, "Simulated."),
        parts=tuple(Part(name, 10, 2, 8, "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z") for name in ("fit", "test")),
        parameters={"seed": 1, "n_estimators": 100},
        search=({"max_depth": 10, "auroc": 0.65432},),
        baselines=(Baseline("prior stays only", 0.6, 0.2, 0.09),),
        groups=assess(held_out, Thresholds(0.1, 0.2), 1),
        importance=importance(held_out, score, 1),
        verdict=Verdict((), None),
        environment={"python": "3.11.2"},
    )


class Page(HTMLParser):
    """What a page holds: its elements, and whether they are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return as_html(report)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(html: str, page: Page) -> None:
    assert page.open == []
    assert {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object"} == set()
    addresses = [attrs[name] or "" for _, attrs in page.elements for name in ("src", "href") if name in attrs]
    assert [one for one in addresses if not one.startswith(("data:image/svg+xml;base64,", "#"))] == []
    assert re.findall(r"url\(|@import", html) == []


def test_every_picture_says_in_words_what_it_shows(page: Page) -> None:
    pictures = [attrs for tag, attrs in page.elements if tag == "img"]
    assert len(pictures) == 3 + 3 * 4 + 1  # everybody; institution, gender, age group; importance
    assert all(re.search(r"\d\.\d", attrs["alt"] or "") for attrs in pictures)


def test_the_page_names_every_group_and_says_which_are_too_small(report: Report, page: Page, html: str) -> None:
    rows = {str(group): group for group in report.groups}
    assert [one for one in rows.values() if one.name != "all" and one.name not in page.text] == []
    small = [one for one in rows.values() if one.assessment is None]
    assert small
    cells = re.findall(r">too small to tell</td>", html)
    assert len(cells) == len(small)


def test_the_page_is_a_model_card(page: Page) -> None:
    for word in ("Intended use", "Users", "not a medical device", "other institutions are not seen", "Simulated."):
        assert word in page.text


def test_the_page_says_what_the_gate_said(report: Report) -> None:
    held = replace(report, verdict=Verdict(("Its AUROC is <b>0.5</b>.",), "3"))
    page = Page(as_html(held))
    assert "holds it back as challenger (champion: version 3)" in page.text
    assert "Its AUROC is <b>0.5</b>." in page.text  # told, not obeyed


def test_the_same_report_gives_the_same_bytes(report: Report, html: str) -> None:
    assert as_html(report) == html


def test_the_document_holds_all_that_was_measured(report: Report) -> None:
    document = json.loads(as_json(report))
    assert document.keys() == set(Report.__dataclass_fields__)
    everybody = document["groups"][0]
    assert everybody["assessment"]["evaluation"]["auroc"] == report.everybody.evaluation.auroc
    assert len(everybody["assessment"]["thresholds"]) == 50
    assert [one["assessment"] for one in document["groups"] if one["name"] == "other or unknown"] == [None]
    assert document["data"]["ends"] == [{"topic": "features.dkfz", "topic_id": "id", "partition": 0, "end_offset": 7}]
    assert document["format"] == 1
