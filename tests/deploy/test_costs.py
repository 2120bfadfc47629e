"""The page of costs says what its own prices and Terraform's sizes come to."""

from __future__ import annotations

import pytest

from tests.deploy.costs import HOURS, PAGE, parts, prices, table
from tests.deploy.terraform_files import values


def test_the_page_has_the_table_that_its_prices_and_the_sizes_give() -> None:
    assert table() in PAGE.read_text("utf-8"), "docs/costs.md is behind terraform/main.tf: python -m tests.deploy.costs"


def test_a_part_is_reckoned_as_by_hand() -> None:
    small = parts(values()["sizes"]["small"])
    assert small["brokers"] == pytest.approx(3 * 730 * 0.245 + 3 * 100 * 0.119)
    assert small["control plane"] == pytest.approx(73)
    assert small["endpoints"] == pytest.approx(6 * 3 * HOURS * 0.012)


def test_every_price_is_used_by_some_size_and_larger_is_dearer() -> None:
    sums = [sum(parts(size).values()) for size in values()["sizes"].values()]
    assert sums == sorted(sums)
    types = {
        size[kind] for size in values()["sizes"].values() for kind in ("broker_type", "database_type", "node_type")
    }
    instances = {unit.split(",")[0].split(" ")[0] for unit in prices() if unit.startswith(("kafka.", "db.", "m7i."))}
    assert instances == types
