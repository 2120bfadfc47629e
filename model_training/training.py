"""Find the forest's shape, fit it, calibrate it, choose the bands: pure, given a seed and as long as time is ample."""

from __future__ import annotations

from dataclasses import dataclass

from sklearn.ensemble import RandomForestClassifier

from model_training.calibrating import calibrate
from model_training.search import SEARCH_BUDGET_S, Tried, best, fit_forest, raw_probability, search
from model_training.splitting import Split, require_enough
from schemas.model import Calibration, Thresholds

__all__ = ["Fitted", "choose_thresholds", "fit", "raw_probability"]

_PARAMETERS = ("n_estimators", "class_weight", "max_depth", "min_samples_leaf", "max_leaf_nodes")


@dataclass(frozen=True, slots=True)
class Fitted:
    """A forest and what turns its raw probability into a score; `search`: the shapes that were tried, in order."""

    forest: RandomForestClassifier
    calibration: Calibration
    thresholds: Thresholds
    search: tuple[Tried, ...]

    @property
    def parameters(self) -> dict[str, str | int]:
        """What the forest was fitted with, in scikit-learn's words, and the calibration's family."""
        given = self.forest.get_params()
        return {
            **{name: given[name] for name in _PARAMETERS},
            "calibration": type(self.calibration).__name__.lower(),
            "shapes_tried": len(self.search),
        }


def fit(split: Split, seed: int, budget_s: float = SEARCH_BUDGET_S) -> Fitted:
    """Choose the trees' shape on the fit part, fit the forest there, and calibrate it on the calibration part.

    The search for the shape ends after `budget_s` seconds; with time for all shapes, the same split and seed give the
    same model. Forests are fitted on joblib's current backend (`model_training.backends`). Raises NotEnoughStaysError
    where any part lacks stays of either class.
    """
    require_enough(split)
    tried = search(split.fit, seed, budget_s)
    forest = fit_forest(split.fit, best(tried), seed)
    raw = raw_probability(forest, split.calibrate.rows)
    calibration = calibrate(raw, split.calibrate, seed)
    return Fitted(forest, calibration, choose_thresholds(split.calibrate.prevalence), tried)


def choose_thresholds(prevalence: float) -> Thresholds:
    """Set the bands against the usual risk: medium from the prevalence on, high from twice the prevalence on.

    Fixed multiples, not quantiles: a band then means the same risk in a calm week as in a bad one, and a clinician
    can say what it means. Where readmission is so common that twice as often is impossible, high begins half-way
    between the prevalence and certainty.
    """
    return Thresholds(medium=prevalence, high=min(2 * prevalence, (1 + prevalence) / 2))
