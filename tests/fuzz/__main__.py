"""Fuzz all targets, each for its share of the time: python -m tests.fuzz --minutes 10."""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import time

from tests.fuzz.running import fuzz, limit_memory
from tests.fuzz.targets import TARGETS

_MOST_ADDRESSES = 8 * 2**30
_EXAMPLES = 2_000


def main() -> int:
    """Run each target in a process of its own; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--target", choices=TARGETS, help="only this one, in this process")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    given = parser.parse_args()
    if given.target:
        limit_memory(_MOST_ADDRESSES)
        found = fuzz(TARGETS[given.target], examples=_EXAMPLES, seed_=given.seed, seconds=60 * given.minutes)
        print(
            f"{given.target:<24} {found.inputs:>9,} inputs  longest {found.longest_s:.3f} s  "
            f"grew {found.growth / 2**20:.0f} MiB  seed {given.seed}"
        )
        return 0
    share, started = given.minutes / len(TARGETS), time.monotonic()
    options = ["--minutes", str(share), "--seed", str(given.seed)]
    command = [sys.executable, "-m", "tests.fuzz", *options, "--target"]
    failed = [name for name in TARGETS if subprocess.run([*command, name], check=False).returncode]
    print(f"{len(failed)} of {len(TARGETS)} failed in {time.monotonic() - started:.0f} s", *failed)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
