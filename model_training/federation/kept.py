"""What a site keeps between the rounds, in a folder only it can read: its split, and the file it handed over."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from model_training.dataset import Dataset
from model_training.splitting import Split
from schemas.errors import ConfigurationError

_PARTS = ("fit", "calibrate", "test")
_ARRAYS = ("rows", "readmitted", "persons", "institutions", "discharged_at")


def folder_of(data_dir: Path, institution: str) -> Path:
    """Name an institution's folder."""
    return data_dir / "federation" / institution


def keep(folder: Path, split: Split, handed_over: bytes) -> None:
    """Keep a split and what was made of it, in place of an earlier one."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    arrays = {f"{part}_{name}": getattr(getattr(split, part), name) for part in _PARTS for name in _ARRAYS}
    new = folder / "split.new.npz"
    np.savez(new, handed_over=np.frombuffer(handed_over, dtype=np.uint8), **arrays)
    os.replace(new, folder / "split.npz")


def kept(folder: Path) -> tuple[Split, bytes]:
    """Return the split and the file that was handed over; raise ConfigurationError where there is none."""
    try:
        with np.load(folder / "split.npz", allow_pickle=False) as found:
            fit, calibrate, test = (Dataset(*(found[f"{part}_{name}"] for name in _ARRAYS)) for part in _PARTS)
            return Split(fit, calibrate, test), found["handed_over"].tobytes()
    except FileNotFoundError:
        raise ConfigurationError(f"{folder.name} has handed no forest over from here yet.") from None


def joined(parts: list[Dataset]) -> Dataset:
    """Put datasets together, one after the other."""
    return Dataset(*(np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS))
