"""Stage 2 of validation: FHIR R4 4.0.1 structure, judged by fhirkit or, as a second opinion, fhir.resources."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import fhirkit

from schemas.rejection import MOST_ISSUES, Issue, Reason

_DUPLICATE = "the key appears more than once"
_MANY_BYTES = 16_000_000  # more is judged one by one: what fhirkit reads at once it holds at once


Document = tuple[bytes, dict[str, Any]]  # a resource's bytes, and what they parse to


class StructureValidator(Protocol):
    """Judge resources, many at once."""

    def __call__(self, documents: Sequence[Document]) -> list[list[Issue]]:
        """Return each one's issues, none where its structure is valid; never raise on content."""
        ...


def structure_validator(name: Literal["fhirkit", "fhir.resources"]) -> StructureValidator:
    """Choose the library that judges structure."""
    return fhirkit_issues if name == "fhirkit" else fhir_resources_issues


def fhirkit_issues(documents: Sequence[Document]) -> list[list[Issue]]:
    """Judge with fhirkit (Rust); it gives up the interpreter's lock for the whole time, not once for each."""
    values: list[str | bytes | dict[str, Any]] = [value for value, _ in documents]
    if sum(map(len, values)) <= _MANY_BYTES:
        try:
            return [_errors(resource.issues) for resource in fhirkit.parse_many(values, threads=1)]
        except (fhirkit.ParseError, fhirkit.ValidationError):
            pass  # one that is no resource at all; the others are judged alone
    return [_fhirkit_issues(value) for value, _ in documents]


def _fhirkit_issues(value: bytes) -> list[Issue]:
    try:
        return _errors(fhirkit.validate(value))
    except fhirkit.ParseError as error:
        return [Issue(Reason.NOT_JSON, "", f"Not JSON: {error}.")]


def _errors(found: Iterable[fhirkit.Issue]) -> list[Issue]:
    """List the errors; where more of them reject the whole event than are kept, the rest are not looked at."""
    errors: list[Issue] = []
    whole = 0
    for issue in found:
        if issue.severity == "error":
            error = _issue(issue.path, issue.message)
            errors.append(error)
            whole += rejects_all(error)
            if whole > MOST_ISSUES:
                break
    return errors


def _issue(path: str, message: str) -> Issue:
    reason = Reason.DUPLICATE_KEY if message == _DUPLICATE else Reason.STRUCTURE
    return Issue(reason, path, f"{path}: {message}.")


def fhir_resources_issues(documents: Sequence[Document]) -> list[list[Issue]]:
    """Judge with fhir.resources (pydantic, R4B models, some 20 times slower)."""
    return [_fhir_resources_issues(value, document) for value, document in documents]


def _fhir_resources_issues(value: bytes, document: dict[str, Any]) -> list[Issue]:
    from fhir.resources.R4B import get_fhir_model_class
    from pydantic import ValidationError

    duplicate = _duplicate_key(value)
    if duplicate is not None:
        return [Issue(Reason.DUPLICATE_KEY, "", f"The key {duplicate!r} appears more than once.")]
    kind = str(document.get("resourceType", ""))
    try:
        get_fhir_model_class(kind).model_validate(document)
    except KeyError:
        return [Issue(Reason.STRUCTURE, kind, f"{kind!r} is not a FHIR R4 resource type.")]
    except ValidationError as error:
        return [_pydantic_issue(kind, one) for one in error.errors(include_url=False)]
    except (ValueError, TypeError, AttributeError) as error:
        return [Issue(Reason.STRUCTURE, kind, f"{kind}: {error}.")]
    return []


def _pydantic_issue(kind: str, error: Any) -> Issue:
    path = kind + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    return Issue(Reason.STRUCTURE, path, f"{path}: {error['msg']}.")


def _duplicate_key(value: bytes) -> str | None:
    class DuplicateError(Exception):
        pass

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            raise DuplicateError(next(key for key in keys if keys.count(key) > 1))
        return result

    try:
        json.loads(value, object_pairs_hook=unique)
    except DuplicateError as error:
        return str(error)
    return None


def rejects_all(issue: Issue) -> bool:
    """Tell whether a structure's issue concerns more than one entry of a Bundle."""
    return entry_of(issue.path) is None or issue.reason is Reason.DUPLICATE_KEY


_ENTRY = "Bundle.entry["


def entry_of(path: str) -> int | None:
    """Return the number of the Bundle entry a path lies in, None where it lies in none.

    >>> entry_of("Bundle.entry[3].resource.status")
    3
    """
    if not path.startswith(_ENTRY):
        return None
    number, closed, _ = path.removeprefix(_ENTRY).partition("]")
    return int(number) if closed and number.isdecimal() else None
