"""The pictures of a model's report; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from model_training.drawing import COLOURS, GREY, Picture, look, svg
from model_training.evaluation import Assessment, Group, Importance

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def for_everybody(group: Group) -> tuple[Picture, ...]:
    """Draw calibration, net benefit, and alerts against what they catch, of one group."""
    return _curves([group])


def by_group(groups: Sequence[Group]) -> tuple[Picture, ...]:
    """Draw AUROC side by side, then the curves of all groups that are large enough, into the same pictures."""
    large = [group for group in groups if group.assessment]
    return _auroc(large), *_curves(large)


def reliance(importance: Sequence[Importance]) -> Picture:
    """Draw what AUROC loses without each feature."""
    rising = importance[::-1]

    def draw(axes: Axes) -> None:
        drops = [one.auroc_drop for one in rising]
        spread = [
            [one.auroc_drop - one.least for one in rising],
            [one.most - one.auroc_drop for one in rising],
        ]
        axes.barh([one.feature for one in rising], drops, xerr=spread, color=COLOURS[0], ecolor=GREY)
        axes.set_xlabel("AUROC lost when shuffled")
        axes.grid(visible=False, axis="y")

    shown = "; ".join(f"{one.feature} {one.auroc_drop:.3f}" for one in importance)
    return Picture(svg(draw, (5.6, 3.3)), "What the model goes by", f"AUROC lost by feature: {shown}.")


def _curves(groups: Sequence[Group]) -> tuple[Picture, ...]:
    return _calibration(groups), _net_benefit(groups), _alerts(groups)


def _calibration(groups: Sequence[Group]) -> Picture:
    end = 1.05 * max(max(point.predicted, point.observed) for one in groups for point in _of(one).calibration_curve)

    def draw(axes: Axes) -> None:
        axes.plot([0, end], [0, end], color=GREY, linewidth=1, label="perfect")
        for number, group in enumerate(groups):
            curve = _of(group).calibration_curve
            predicted, observed = [one.predicted for one in curve], [one.observed for one in curve]
            axes.plot(predicted, observed, marker="o", markersize=3, **look(number), label=_label(group))
            if len(groups) == 1:
                low, high = [one.interval.low for one in curve], [one.interval.high for one in curve]
                axes.vlines(predicted, low, high, color=COLOURS[0], linewidth=1, alpha=0.6)
        axes.set_xlabel("predicted risk")
        axes.set_ylabel("share readmitted")
        axes.legend()

    shown = "; ".join(f"{_label(group)}: {_calibration_words(_of(group))}" for group in groups)
    return Picture(svg(draw), "Calibration: stays of like risk, and how many came back", f"Calibration curve. {shown}.")


def _net_benefit(groups: Sequence[Group]) -> Picture:
    def draw(axes: Axes) -> None:
        most = 0.0
        for number, group in enumerate(groups):
            rows = _of(group).thresholds
            thresholds, benefit = [one.threshold for one in rows], [one.net_benefit for one in rows]
            axes.plot(thresholds, benefit, **look(number), label=_label(group))
            most = max(most, *benefit)
            if len(groups) == 1:
                everybody = [one.net_benefit_all for one in rows]
                axes.plot(thresholds, everybody, color=GREY, linewidth=1, linestyle="--", label="alert for all")
        axes.axhline(0, color=GREY, linewidth=1, label="alert for nobody")
        axes.set_ylim(-0.25 * most, 1.1 * most)
        axes.set_xlabel("threshold probability")
        axes.set_ylabel("net benefit a stay")
        axes.legend()

    shown = "; ".join(
        f"{_label(group)}: {one.net_benefit:.4f} at the threshold of band high, {one.net_benefit_all:.4f} for all"
        for group in groups
        if (one := _of(group).high)
    )
    return Picture(svg(draw), "Decision curve: true alerts less false ones at the threshold's odds", f"{shown}.")


def _alerts(groups: Sequence[Group]) -> Picture:
    def draw(axes: Axes) -> None:
        for number, group in enumerate(groups):
            assessment = _of(group)
            rows = assessment.thresholds
            alerts, caught = [one.alerts_per_day for one in rows], [one.caught_per_day for one in rows]
            axes.plot(alerts, caught, **look(number), label=_label(group))
            for marker, band in (("s", assessment.medium), ("^", assessment.high)):
                axes.plot(band.alerts_per_day, band.caught_per_day, marker, color=COLOURS[number % len(COLOURS)])
        axes.plot([], [], "s", color=GREY, label="from band medium on")
        axes.plot([], [], "^", color=GREY, label="band high only")
        axes.set_xlabel("alerts a day")
        axes.set_ylabel("readmissions caught a day")
        axes.legend()

    shown = "; ".join(
        f"{_label(group)}: {one.alerts_per_day:.2f} alerts a day catch {one.caught_per_day:.2f} readmissions"
        for group in groups
        if (one := _of(group).high)
    )
    return Picture(svg(draw), "Alerts a day against readmissions caught, by threshold", f"At band high, {shown}.")


def _auroc(groups: Sequence[Group]) -> Picture:
    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        for height, group in enumerate(groups[::-1]):
            one = _of(group).evaluation
            axes.plot([one.auroc_interval.low, one.auroc_interval.high], [height, height], color=COLOURS[0])
            axes.plot(one.auroc, height, "o", color=COLOURS[0])
        axes.axvline(0.5, color=GREY, linewidth=1, linestyle="--")
        axes.set_yticks(range(len(groups)), [_label(group) for group in groups[::-1]])
        axes.set_ylim(-0.6, len(groups) - 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel("AUROC with 95 % interval; 0.5 is chance")

    shown = "; ".join(
        f"{_label(group)} {one.auroc:.3f} ({one.auroc_interval})" for group in groups if (one := _of(group).evaluation)
    )
    return Picture(svg(draw), "AUROC", f"AUROC: {shown}.")


def _label(group: Group) -> str:
    return "the model" if group.name == "all" else group.name


def _calibration_words(assessment: Assessment) -> str:
    return ", ".join(
        f"{one.predicted:.3f} predicted {one.observed:.3f} observed" for one in assessment.calibration_curve
    )


def _of(group: Group) -> Assessment:
    assert group.assessment is not None
    return group.assessment
