"""Folders that are made once and whole: a killed run never leaves half of one behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from schemas.errors import LocalStackError


def make_once(folder: Path, proof: str, make: Callable[[Path], None]) -> None:
    """Have `make` fill the folder unless it is there already.

    `make` works on a folder beside it, renamed when it is done. Raises LocalStackError when the folder is there
    without the file `proof`: somebody else's, or damaged.
    """
    if folder.exists():
        if not (folder / proof).exists():
            raise LocalStackError(
                f"{folder} is not a complete data folder ({proof} is missing): delete {folder} "
                "(what it holds is lost) and start again."
            )
        return
    partial = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    make(partial)
    partial.rename(folder)
