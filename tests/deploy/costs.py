"""The monthly costs by size, from docs/costs.md's prices and the Terraform files; run it to print the table."""

from __future__ import annotations

import re
from typing import Any

from schemas.institutions import institutions
from tests.contract.source_code import ROOT
from tests.deploy.terraform_files import blocks, values

HOURS = 730
PAGE = ROOT / "docs" / "costs.md"
ZONES = 3


def prices() -> dict[str, float]:
    """Return the page's prices by unit, USD."""
    rows = re.findall(r"^\| ([^|]+) \| (\d+\.\d+) \|$", PAGE.read_text("utf-8"), re.M)
    return {unit: float(price) for unit, price in rows}


def parts(size: dict[str, Any]) -> dict[str, float]:
    """Return what each part of one size costs a month, USD."""
    price = prices()
    secrets = len(institutions()) + len(_listed("workloads")) + 2  # the pseudonym key's, the database's
    return {
        "brokers": ZONES
        * (HOURS * price[f"{size['broker_type']}, hour"] + size["broker_gib"] * price["broker storage, GiB-month"]),
        "database": HOURS * price[f"{size['database_type']} in two zones, hour"]
        + size["database_gib"] * price["database storage in two zones, GiB-month"],
        "nodes, at the least": size["nodes"]
        * (HOURS * price[f"{size['node_type']}, hour"] + _node_gib() * price["node storage, GiB-month"]),
        "control plane": HOURS * price["EKS control plane, hour"],
        "NAT gateways": size["nat_gateways"] * HOURS * price["NAT gateway, hour"],
        "endpoints": _endpoints() * ZONES * HOURS * price["interface endpoint in one zone, hour"],
        "keys and secrets": len(values()["keys"]) * price["KMS key, month"] + secrets * price["secret, month"],
    }


def table() -> str:
    """Write the page's second table."""
    sizes: dict[str, dict[str, Any]] = values()["sizes"]
    costs = {name: parts(size) for name, size in sizes.items()}
    lines = [f"| part | {' | '.join(costs)} |", "|---|---|---|---|"]
    lines += [_row(part, [costs[name][part] for name in costs]) for part in costs["small"]]
    return "\n".join([*lines, _row("together", [sum(one.values()) for one in costs.values()])]) + "\n"


def _row(name: str, amounts: list[float]) -> str:
    return f"| {name} | {' | '.join(f'{amount:,.0f}' for amount in amounts)} |"


def _listed(name: str) -> list[str]:
    return re.findall(r'"([\w.]+)"', values()[name])


def _endpoints() -> int:
    [block] = [one for one in blocks() if (one.type, one.name) == ("aws_vpc_endpoint", "interface")]
    return len(re.findall(r'"([\w.]+)"', block.body["for_each"]))


def _node_gib() -> int:
    [block] = [one for one in blocks() if one.type == "aws_launch_template"]
    return int(block.body["block_device_mappings"][0]["ebs"][0]["volume_size"])


if __name__ == "__main__":
    print(table(), end="")
