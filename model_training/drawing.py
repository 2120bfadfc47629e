"""How pictures are drawn, as SVG inside data URIs: colours, lines, light and dark; pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which most people tell apart; the line styles do so in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#767676"
_STYLES = ("-", "--", "-.", ":")
_SIZE = 4.4, 3.3
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "healthalliance",  # the same report gives the same bytes
}
_INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
_DARK: dict[Any, Any] = {
    **dict.fromkeys(_INKED, "#e6e6e6"),
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": "#3a3a3a",
}

Drawn = Callable[["Axes"], None]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture: its data URI, what stands below it, what it shows in words; dark: the same for a dark ground."""

    source: str
    caption: str
    alt: str
    dark: str = ""


def look(number: int) -> dict[str, Any]:
    """Return the colour and line style of the picture's n-th line."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": _STYLES[number % len(_STYLES)]}


def svg(draw: Drawn, size: tuple[float, float] = _SIZE, *, dark: bool = False) -> str:
    """Draw a picture of `size` (inches) and return its data URI; a dark one has light ink on no ground of its own."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, **(_DARK if dark else {})}):
        figure = Figure(figsize=size, layout="tight")
        draw(figure.add_subplot())
        written = BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + b64encode(written.getvalue()).decode()
