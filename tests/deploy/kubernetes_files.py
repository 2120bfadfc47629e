"""The Kubernetes overlays as they are applied: rendered by kustomize, and what their pods are made of."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.source_code import ROOT

FOLDER = ROOT / "k8s"
OVERLAYS = ("local", "aws")
needs_kustomize = pytest.mark.skipif(
    not (shutil.which("kustomize") or shutil.which("kubectl")), reason="there is neither kustomize nor kubectl"
)

Manifest = dict[str, Any]
_PATHS = {"CronJob": ("jobTemplate", "spec", "template"), "Job": ("template",)}


def build(folder: Path) -> list[Manifest]:
    """Render a folder as the delivery does."""
    command = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    return tuple(build(FOLDER / "overlays" / overlay))


def of_kind(overlay: str, *kinds: str) -> list[Manifest]:
    return [one for one in rendered(overlay) if one["kind"] in kinds]


def named(overlay: str, kind: str, name: str) -> Manifest:
    [found] = [one for one in of_kind(overlay, kind) if one["metadata"]["name"] == name]
    return found


@dataclass(frozen=True)
class Workload:
    """What makes pods: its manifest, and of the pods their labels and specification."""

    overlay: str
    manifest: Manifest
    labels: dict[str, str]
    pod: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.overlay}: {self.manifest['kind']} {self.manifest['metadata']['name']}"

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    def ports(self) -> dict[str, int]:
        """Return the pods' ports by name."""
        return {one["name"]: one["containerPort"] for each in self.pod["containers"] for one in each.get("ports", [])}

    def selected_by(self, selector: dict[str, Any]) -> bool:
        """Tell whether a label selector means these pods; an empty one means all."""
        wanted = selector.get("matchLabels", {}).items() <= self.labels.items()
        return wanted and all(
            self.labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", [])
        )


@cache
def workloads(overlay: str) -> tuple[Workload, ...]:
    found = []
    for one in of_kind(overlay, "Deployment", "StatefulSet", "Job", "CronJob"):
        template = one["spec"]
        for key in _PATHS.get(one["kind"], ("template",)):
            template = template[key]
        found.append(Workload(overlay, one, template["metadata"]["labels"], template["spec"]))
    return tuple(found)


def workload(overlay: str, name: str) -> Workload:
    [found] = [one for one in workloads(overlay) if one.manifest["metadata"]["name"] == name]
    return found


def settings_of(overlay: str) -> dict[str, str]:
    """Return the settings that every program gets by the ConfigMap."""
    [found] = [one["data"] for one in of_kind(overlay, "ConfigMap") if "METRICS_HOST" in one["data"]]
    return dict(found)


def secrets_of(one: Workload) -> Iterator[tuple[str, str]]:
    """Yield the Secrets and keys that pods ask for; the key is * where they take all there are."""
    for container in one.containers:
        for source in container.get("envFrom", []):
            if "secretRef" in source:
                yield source["secretRef"]["name"], "*"
        for variable in container.get("env", []):
            if (key := variable.get("valueFrom", {}).get("secretKeyRef")) is not None:
                yield key["name"], key["key"]
