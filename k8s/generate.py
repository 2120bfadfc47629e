"""Make what Kubernetes is given of other files: `python k8s/generate.py` writes it anew.

Edit the files it comes from, not what this writes; a test holds the two together.
"""

from __future__ import annotations

from pathlib import Path

import yaml

_FOLDER = Path(__file__).parent
_ROOT = _FOLDER.parent

_MADE = "# Made by `python k8s/generate.py` of {source}; edit that.\n"


def files() -> dict[Path, str]:
    """Return the text of every file by its path."""
    copies = {
        _FOLDER / "base" / "schemas" / name: (_ROOT / "schemas" / name).read_text("utf-8")
        for name in ("institutions.yaml", "topics.json")
    }
    return {**copies, _FOLDER / "components" / "monitoring" / "prometheus-rule.yaml": _prometheus_rule()}


def _prometheus_rule() -> str:
    source = "monitoring/prometheus/rules/healthalliance.yml"
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "healthalliance", "labels": {"app.kubernetes.io/name": "healthalliance"}},
        "spec": yaml.safe_load((_ROOT / source).read_text("utf-8")),
    }
    return _MADE.format(source=source) + yaml.safe_dump(rule, sort_keys=False, allow_unicode=True, width=120)


def main() -> None:
    """Write all files."""
    for path, text in files().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
