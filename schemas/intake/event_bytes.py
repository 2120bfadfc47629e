"""Stage 1 of validation: what is tested on the bytes, before anything reads them as FHIR."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from schemas.rejection import Issue, Reason

# FHIR's largest resources have some hundred elements. The structure's judge takes time by the square of an object's
# unknown members: 10 s for 100,000 of them.
_MOST_MEMBERS = 1_000
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
# Nothing is looked at twice, a string that never ends least of all.
_BRACKET_OR_STRING = re.compile(rb'(?P<open>[{\[])|(?P<close>[}\]])|"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
# \u0000 behind an even number of backslashes; an odd one before it makes it text.
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest accepted value in bytes, the deepest nesting of objects and arrays, the most entries of a Bundle."""

    max_bytes: int = 5_000_000
    max_depth: int = 64
    max_entries: int = 5_000


def read_json(value: bytes, limits: Limits) -> dict[str, Any] | Issue:
    """Read one JSON object strictly (RFC 8259), or say what forbids it.

    Duplicate keys pass here: the structure stage finds them, with their path.
    """
    if len(value) > limits.max_bytes:
        return Issue(Reason.TOO_LARGE, "", f"{len(value)} bytes; at most {limits.max_bytes} are accepted.")
    if b"\x00" in value or (b"\\u0000" in value and _ESCAPED_NUL.search(value)):
        return Issue(Reason.NUL_CHARACTER, "", "U+0000 is not allowed in FHIR strings.")
    try:
        value.decode("utf-8")
    except UnicodeDecodeError as error:
        return Issue(Reason.NOT_UTF8, "", f"Not UTF-8: byte {error.start}.")
    if is_deeper_than(value, limits.max_depth):
        return Issue(Reason.TOO_DEEP, "", f"Nested deeper than {limits.max_depth} levels.")
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        return Issue(Reason.NOT_JSON, "", f"Not JSON: {error.msg} at character {error.pos}.")
    if not isinstance(document, dict):
        return Issue(Reason.NOT_JSON, "", "A FHIR resource is a JSON object.")
    entries = document.get("entry")
    if isinstance(entries, list) and len(entries) > limits.max_entries:
        text = f"{len(entries)} entries; at most {limits.max_entries} are accepted."
        return Issue(Reason.TOO_MANY_ENTRIES, "", text)
    if value.count(b":") > _MOST_MEMBERS and _most_members(document) > _MOST_MEMBERS:
        return Issue(Reason.TOO_WIDE, "", f"An object with more than {_MOST_MEMBERS} members.")
    return document


def _most_members(document: object) -> int:
    most, left = 0, [document]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            most = max(most, len(one))
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
    return most


def is_deeper_than(value: bytes, levels: int) -> bool:
    """Tell whether JSON text nests objects and arrays deeper than `levels`.

    Peels the innermost brackets off, one or two levels a turn, without looking at anything else; where that
    does not settle it (deep text, or brackets inside strings), brackets outside of strings are counted.

    >>> is_deeper_than(b'{"a": [{"b": "[["}]}', 2), is_deeper_than(b'{"a": [{"b": "[["}]}', 3)
    (True, False)
    """
    brackets = value.translate(None, _NOT_BRACKETS)
    for _ in range(levels // 2):
        if not brackets:
            return False
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
    depth = 0
    for found in _BRACKET_OR_STRING.finditer(value):
        if found.lastgroup == "open":
            depth += 1
        elif found.lastgroup == "close":
            depth -= 1
        if depth > levels:
            return True
    return False
