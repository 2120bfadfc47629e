"""Nothing that git keeps holds a secret."""

from __future__ import annotations

import re
import subprocess

from tests.contract.source_code import ROOT

# Each with a text that it must find.
KINDS = {
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----": "-----BEGIN " + "PRIVATE KEY-----",
    r"\bAKIA[0-9A-Z]{16}\b": "AKIA" + "ABCDEFGHIJKLMNOP",
    r"\bgh[pousr]_[A-Za-z0-9]{36}\b": "ghp_" + "a" * 36,
    r"\bxox[abprs]-[A-Za-z0-9-]{20,}": "xoxb-" + "1" * 24,
    # A password that stands in an address; a variable or a placeholder is none.
    r"\w+://[\w.-]+:(?![$%{<]|password@|secret@|user@|x@)[^\s@/:'\"`{}$]{8,}@": "postgresql://me:"
    + "hunter2hunter2@host",
    # A value of a variable that is named as one.
    r"(?m)^(?:export )?[A-Z_]*(?:PASSWORD|SECRET|TOKEN|PSEUDONYM_KEY)=[^\s$#'\"<]{8,}$": "POSTGRES_PASSWORD="
    + "x" * 20,
}


def kept_texts() -> dict[str, str]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in names.split("\0") if name]
    found = {}
    for path in paths:
        try:
            found[str(path.relative_to(ROOT))] = path.read_text("utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
    return found


def test_each_kind_is_found_where_it_is() -> None:
    assert [kind for kind, example in KINDS.items() if not re.search(kind, example)] == []


def test_no_file_holds_a_secret() -> None:
    texts = kept_texts()
    assert len(texts) > 400
    found = [
        f"{name}: {match[0][:30]}…"
        for name, text in texts.items()
        for kind in KINDS
        for match in re.finditer(kind, text)
    ]
    assert found == []
