"""The pictures of an analyst's report, each on a light and on a dark ground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from connectors.overview import Day, Drift, RiskGroup
from model_training.drawing import COLOURS, GREY, Drawn, Picture, look, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BANDS = (("low", "#56B4E9"), ("medium", "#E69F00"), ("high", "#D55E00"))
_WIDE = 5.2, 2.7
_MOVING, _SHIFTED = 0.1, 0.25


def volume(days: Sequence[Day]) -> Picture:
    """Draw an institution's scores by day, stacked by band; grey where the bands are too small to tell."""

    def draw(axes: Axes) -> None:
        told = [one for one in days if one.low is not None]
        base = [0] * len(told)
        for band, colour in _BANDS if told else ():
            heights = [int(getattr(one, band)) for one in told]
            axes.bar(_dates(told), heights, bottom=base, color=colour, label=band)
            base = [low + height for low, height in zip(base, heights, strict=True)]
        totals = [one for one in days if one.low is None and one.encounters is not None]
        if totals:
            axes.bar(
                _dates(totals),
                np.array([one.encounters for one in totals]),
                color=GREY,
                label="bands too small to tell",
            )
        axes.set_ylabel("standing scores")
        axes.legend(ncols=4, loc="upper left", bbox_to_anchor=(0, 1.2))
        _by_day(axes, days)

    shown = [one.encounters for one in days if one.encounters is not None]
    words = f"{len(shown)} days, {min(shown):,} to {max(shown):,} scores a day" if shown else "no day has ten scores"
    return _picture(draw, "Standing scores by day of arrival and band", f"Scores by day: {words}.")


def mean_risk(days: Sequence[Day]) -> Picture:
    """Draw an institution's mean probability by day."""
    told = [one for one in days if one.mean_probability is not None]

    def draw(axes: Axes) -> None:
        axes.plot(_dates(told), np.array([one.mean_probability for one in told]), marker="o", markersize=3, **look(0))
        axes.set_ylim(bottom=0)
        axes.set_ylabel("mean probability")
        _by_day(axes, days)

    means = [one.mean_probability for one in told if one.mean_probability is not None]
    words = f"from {min(means):.1%} to {max(means):.1%}" if means else "no day has ten scores"
    return _picture(draw, "Mean probability of the standing scores by day", f"Mean probability by day: {words}.")


def calibration(groups: Sequence[RiskGroup]) -> Picture:
    """Draw predicted against observed risk, a line for each institution and model."""
    lines: dict[str, list[RiskGroup]] = {}
    for one in groups:
        lines.setdefault(f"{one.institution}, {one.role} {one.model_version}", []).append(one)
    end = 1.05 * max(max(one.mean_probability, one.observed_share) for one in groups)

    def draw(axes: Axes) -> None:
        axes.plot([0, end], [0, end], color=GREY, linewidth=1, label="perfect")
        for number, (label, own) in enumerate(lines.items()):
            shares = [one.observed_share for one in own]
            axes.plot(
                [one.mean_probability for one in own], shares, marker="o", markersize=3, **look(number), label=label
            )
        axes.set_xlabel("predicted risk")
        axes.set_ylabel("share readmitted")
        axes.legend()

    words = "; ".join(
        f"{label}: "
        + ", ".join(f"{one.mean_probability:.3f} predicted {one.observed_share:.3f} observed" for one in own)
        for label, own in lines.items()
    )
    return _picture(draw, "Calibration: stays of like risk, and how many came back", f"{words}.", (4.8, 3.6))


def drift(readings: Sequence[Drift]) -> Picture:
    """Draw each feature's index, a mark for each institution."""
    features = sorted({one.feature for one in readings}, reverse=True)
    institutions = sorted({one.institution for one in readings})

    def draw(axes: Axes) -> None:
        for number, institution in enumerate(institutions):
            own = [one for one in readings if one.institution == institution]
            places = [features.index(one.feature) + 0.12 * (number - (len(institutions) - 1) / 2) for one in own]
            axes.plot([one.psi for one in own], places, "os^Dv"[number % 5], markersize=5,
                      color=COLOURS[number % len(COLOURS)], label=institution)  # fmt: skip
        for bound in (_MOVING, _SHIFTED):
            axes.axvline(bound, color=GREY, linewidth=1, linestyle="--")
        axes.set_yticks(range(len(features)), [name.replace("_", " ") for name in features])
        axes.set_xlim(left=0)
        axes.set_xlabel("population stability index; lines at 0.1 and 0.25")
        axes.legend(ncols=3, loc="upper left", bbox_to_anchor=(0, 1.12))

    worst = sorted(readings, key=lambda one: -one.psi)[:3]
    words = ", ".join(f"{one.feature} at {one.institution} {one.psi:.2f}" for one in worst)
    return _picture(draw, "Features against those of training", f"Largest drift: {words}.", (5.2, 3.6))


def _dates(days: Sequence[Day]) -> NDArray[Any]:
    return np.array([one.day for one in days], dtype="datetime64[D]")


def _by_day(axes: Axes, days: Sequence[Day]) -> None:
    from datetime import timedelta

    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import MaxNLocator

    locator = AutoDateLocator(minticks=2, maxticks=7)  # type: ignore[no-untyped-call]  # as below: half typed
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(visible=False, axis="x")
    # A window of one day would be drawn by the hour.
    first, last = days[0].day, max(days[-1].day, days[0].day + timedelta(days=6))
    edge = np.timedelta64(16, "h")  # a bar is as wide as a day, around its midnight
    axes.set_xlim(np.datetime64(first, "h") - edge, np.datetime64(last, "h") + edge)  # type: ignore[arg-type]


def _picture(draw: Drawn, caption: str, alt: str, size: tuple[float, float] = _WIDE) -> Picture:
    return Picture(svg(draw, size), caption, alt, dark=svg(draw, size, dark=True))
