"""Fail where a locked package is known to be vulnerable; say so where the service that knows cannot be reached.

python tests/deploy/vulnerabilities.py PIP_AUDIT LOCK
"""

from __future__ import annotations

import json
import subprocess
import sys

# A vulnerability that does not concern what is done here, and why: none is accepted now.
ACCEPTED: dict[str, str] = {}


def main(command: str, lock: str) -> int:
    """Return the exit code."""
    asked = subprocess.run(
        [command, "--requirement", lock, "--require-hashes", "--disable-pip", "--format", "json",
         "--progress-spinner", "off", "--timeout", "15"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        dependencies = json.loads(asked.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = asked.stderr.strip().rpartition("\n")[2]
        print(f"Known vulnerabilities were not looked up, the service does not answer: {reason[:160]}")
        return 0
    told = [one for one in dependencies if "skip_reason" not in one]
    if len(told) < len(dependencies):
        print(f"Known vulnerabilities of {len(dependencies) - len(told)} packages were not looked up: not answered.")
    found = [
        f"{one['name']} {one['version']}: {problem['id']}, mended in {', '.join(problem['fix_versions']) or 'nothing'}"
        for one in told
        for problem in one.get("vulns", ())
        if problem["id"] not in ACCEPTED
    ]
    if found or told:
        print("\n".join(found) or f"Of {len(told)} locked packages none is known to be vulnerable.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
