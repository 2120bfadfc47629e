"""What travels between the sites and the coordinator: three kinds of JSON file that a person can read: pure.

No row, pseudonym, or time is among them. Whatever counts stays counts at least `FEWEST`.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_training.forests import Forest, Tree
from schemas.errors import ConfigurationError, ModelRefusedError
from schemas.features import FEATURE_NAMES, FEATURE_SET
from schemas.model import Floats

FEWEST = 10

# The forests that sites score with: merged from their trees, fitted where all rows lay in one place, a site's own.
FEDERATED, POOLED, ALONE = "federated", "pooled", "alone"

_MAX_CELLS = 200
_PROBABILITY_DECIMALS = 3
_SCORE_DECIMALS = 6


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record that takes nothing it does not know."""


class TreeRecord(_Record, frozen=True):
    """A tree (`model_training.forests`): shares are rounded to thousandths, how many stays a node had is left out."""

    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    probability: tuple[float, ...]


class ForestRecord(_Record, frozen=True):
    """Trees and how much each counts."""

    trees: tuple[TreeRecord, ...]
    weights: tuple[float, ...]


class Cell(_Record, array_like=True, frozen=True):
    """`FEWEST` or more stays of one outcome with neighbouring scores: how many, and their mean score."""

    stays: int
    score: float


class Scores(_Record, frozen=True):
    """A part's raw scores, those of each outcome in cells, by rising score."""

    readmitted: tuple[Cell, ...]
    others: tuple[Cell, ...]


class HeldOut(_Record, frozen=True):
    """A forest's raw scores of a site's stays that nothing was fitted on."""

    calibrate: Scores
    test: Scores


class SiteForest(_Record, tag="site-forest", kw_only=True, frozen=True):
    """What a site hands over first: its trees.

    snapshot: the digest of the offsets it read to. fit_stays: to the nearest ten.
    """

    institution: str
    feature_set: int
    feature_names: tuple[str, ...]
    snapshot: str
    fit_stays: int
    trees: tuple[TreeRecord, ...]


class MergedForest(_Record, tag="merged-forest", kw_only=True, frozen=True):
    """What the coordinator hands to each site: forests to be scored with.

    made_of: the digest of each site's file; snapshots: of what each was fitted on. forests: `federated`, and `pooled`
    where all rows lay in one place.
    """

    made_of: dict[str, str]
    snapshots: dict[str, str]
    forests: dict[str, ForestRecord]


class SiteScores(_Record, tag="site-scores", kw_only=True, frozen=True):
    """What a site hands over next: how each forest scores its held-out stays; its own goes by the name `alone`.

    merged: the digest of the coordinator's file.
    """

    institution: str
    merged: str
    scores: dict[str, HeldOut]


File = TypeVar("File", SiteForest, MergedForest, SiteScores)


def to_json(record: SiteForest | MergedForest | SiteScores) -> bytes:
    """Write a record as its file; the same record gives the same bytes."""
    return msgspec.json.encode(record)


def from_json(data: bytes, kind: type[File], name: str) -> File:
    """Read a file; raise ConfigurationError that calls it `name` where it is not of this kind, or counts too few."""
    try:
        record = msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{name} is not a {kind.__struct_config__.tag} file: {error}.") from None
    if isinstance(record, SiteForest) and (record.feature_names, record.feature_set) != (FEATURE_NAMES, FEATURE_SET):
        raise ConfigurationError(f"{name} was made for other features than this code's feature set {FEATURE_SET}.")
    if isinstance(record, SiteScores) and any(cell.stays < FEWEST for cell in _cells(record)):
        raise ConfigurationError(f"{name} tells of fewer than {FEWEST} stays at once.")
    return record


def digest(data: bytes) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    return sha256(data).hexdigest()


def tree_record(tree: Tree) -> TreeRecord:
    """Write a tree down."""
    return TreeRecord(
        feature=tuple(np.where(tree.left < 0, 0, tree.feature).tolist()),
        threshold=tuple(np.where(tree.left < 0, 0.0, tree.threshold).tolist()),
        left=tuple(tree.left.tolist()),
        right=tuple(tree.right.tolist()),
        probability=tuple(tree.probability.round(_PROBABILITY_DECIMALS).tolist()),
    )


def to_forest(record: ForestRecord) -> Forest:
    """Return a forest to score with; raise ModelRefusedError where what came is none."""
    weights = np.asarray(record.weights, dtype=np.float64)
    if not record.trees or len(weights) != len(record.trees) or not (weights > 0).all():
        raise ModelRefusedError("The forest that was handed over has no weight for each tree.")
    return Forest([_to_tree(tree) for tree in record.trees], weights / weights.sum(), len(FEATURE_NAMES))


def scores_of(raw: Floats, readmitted: NDArray[np.bool_]) -> Scores:
    """Put raw scores [n] into cells by outcome [n]; there must be `FEWEST` of both."""
    return Scores(readmitted=_in_cells(raw[readmitted]), others=_in_cells(raw[~readmitted]))


def _in_cells(raw: Floats) -> tuple[Cell, ...]:
    size = max(FEWEST, -(-len(raw) // _MAX_CELLS))
    cells = np.array_split(np.sort(raw), max(len(raw) // size, 1))
    return tuple(Cell(len(cell), round(float(cell.mean()), _SCORE_DECIMALS)) for cell in cells)


def _cells(record: SiteScores) -> Iterator[Cell]:
    for held_out in record.scores.values():
        for scores in (held_out.calibrate, held_out.test):
            yield from (*scores.readmitted, *scores.others)


def _to_tree(record: TreeRecord) -> Tree:
    feature, left, right = (np.asarray(each, dtype=np.int64) for each in (record.feature, record.left, record.right))
    threshold, probability = (np.asarray(each, dtype=np.float64) for each in (record.threshold, record.probability))
    if len({len(each) for each in (feature, threshold, left, right, probability)}) != 1 or not len(feature):
        raise ModelRefusedError("A tree that was handed over has arrays of different lengths.")
    inner = left >= 0
    children = np.sort(np.concatenate([left[inner], right[inner]]))
    # Each node but the root is the child of one that comes before it: no circle, nothing out of reach.
    is_tree = np.array_equal(children, np.arange(1, len(feature))) and bool(
        (np.minimum(left, right)[inner] > np.flatnonzero(inner)).all() and (right[~inner] < 0).all()
    )
    is_sound = ((feature >= 0) & (feature < len(FEATURE_NAMES)) & np.isfinite(threshold)).all()
    if not is_tree or not is_sound or not ((probability >= 0) & (probability <= 1)).all():
        raise ModelRefusedError("A tree that was handed over is none.")
    return Tree(feature, threshold, left, right, probability)
