"""Check rendered manifests: `python tests/deploy/manifests.py DEFINITIONS FILE…`, with what `make manifests` installs.

Kubernetes's own resources go by the schemas of several of its versions, custom ones by the definitions that their
projects publish. Both are strict: a field that the schema does not have is a fault.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

# The cluster's (terraform/variables.tf), one before, and those that it will be moved to.
VERSIONS = ("1.33", "1.34", "1.35", "1.36")

Manifest = dict[str, Any]
Schemas = dict[tuple[str, str], dict[str, Any]]


def custom_schemas(folder: Path) -> Schemas:
    """Read the definitions of custom resources: (apiVersion, kind) → strict schema."""
    found: Schemas = {}
    for path in sorted(folder.glob("*.yaml")):
        spec = yaml.safe_load(path.read_text("utf-8"))["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            # What every object has, which a definition need not describe.
            schema["properties"]["metadata"] = {"type": "object"}
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Forbid what a schema does not name, wherever it names anything and does not ask to keep the rest."""
    own = {key: _strict_part(key, value) for key, value in schema.items()}
    if "properties" in own and not schema.get("x-kubernetes-preserve-unknown-fields"):
        own.setdefault("additionalProperties", False)
    return own


def _strict_part(key: str, value: Any) -> Any:
    if key == "properties":
        return {name: strict(one) for name, one in value.items()}
    return strict(value) if key in ("items", "additionalProperties") and isinstance(value, dict) else value


def faults(manifests: Iterable[Manifest], custom: Schemas, versions: Iterable[str] = VERSIONS) -> Iterator[str]:
    """Yield what a cluster would refuse or drop."""
    for one in manifests:
        name = f"{one['kind']} {one['metadata']['name']}"
        schema = custom.get((one["apiVersion"], one["kind"]))
        if schema is not None:
            for error in jsonschema.Draft7Validator(schema).iter_errors(one):
                yield f"{name}: {error.json_path}: {error.message}"
            continue
        for version in versions:
            if (fault := _native_fault(one, version)) is not None:
                yield f"{name}, Kubernetes {version}: {fault}"


def _native_fault(manifest: Manifest, version: str) -> str | None:
    import kubernetes_validate as native

    try:
        native.validate(manifest, version, strict=True)
    except native.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    except native.SchemaNotFoundError as error:
        return str(error.message)
    return None


def main(folder: Path, files: list[Path]) -> None:
    """Print each fault and exit with 1, or say how much was checked."""
    custom = custom_schemas(folder)
    manifests = [one for file in files for one in yaml.safe_load_all(file.read_text("utf-8"))]
    found = list(faults(manifests, custom))
    if found or not manifests:
        sys.exit("\n".join(found) or "There is nothing to check.")
    print(f"{len(manifests)} manifests are valid for Kubernetes {', '.join(VERSIONS)}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(one) for one in sys.argv[2:]])
