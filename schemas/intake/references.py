"""FHIR references, and what they mean inside a Bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# https://hl7.org/fhir/R4/references.html#literal ; the id's own form is tested by the rules
_LITERAL = re.compile(r"(?:^|/)(?P<type>[A-Z][A-Za-z]+)/(?P<id>[^/?#\s]+)(?:/_history/[^/]+)?$")


def resolve(reference: object, kind: str, full_urls: Mapping[str, tuple[str, str]]) -> str | None:
    """Return the id of the `kind` resource that a Reference element points to, None where it points to none.

    `full_urls` maps a Bundle's fullUrls to (resource type, id); it alone gives `urn:uuid:` references a meaning.

    >>> resolve({"reference": "https://example.org/fhir/Patient/7/_history/2"}, "Patient", {})
    '7'
    """
    text = reference.get("reference") if isinstance(reference, dict) else None
    if not isinstance(text, str):
        return None
    if text in full_urls:
        type_, id_ = full_urls[text]
        return id_ if type_ == kind else None
    found = _LITERAL.search(text)
    return found["id"] if found and found["type"] == kind else None


def full_urls(entries: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Map each fullUrl of a Bundle to (resource type, id); a resource without id goes by its urn's own value."""
    found = {}
    for entry in entries:
        resource, url = entry.get("resource"), entry.get("fullUrl")
        if isinstance(resource, dict) and isinstance(url, str):
            own = resource.get("id") or url.rpartition(":")[2].rpartition("/")[2]
            found[url] = (str(resource.get("resourceType")), str(own))
    return found
