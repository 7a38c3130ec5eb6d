"""Matplotlib figures as SVG that stands inside a page: its colours, its font, its own ids."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Stand-ins that no other part of a figure has; the page's variables replace them.
INK, MUTED, GRID = "#0a0b01", "#0a0b02", "#0a0b03"
SERIES = tuple(f"#0c0d0{i}" for i in range(8))
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES)
}
"""The CSS variable of every stand-in."""

_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.fontsize": 11.0,
}


@dataclass(frozen=True)
class Plot:
    """A picture with what it shows."""

    title: str
    caption: str
    svg: str


def plot(
    name: str, title: str, caption: str, fill: Callable[[Axes], bool], height: float = 3.6
) -> list[Plot]:
    """One panel as an SVG element; none where `fill` finds nothing to draw and returns False. The
    same data give the same text.

    Args:
        name: Unique in the page, prefix of all ids.
        title: Read out in place of the picture.
        height: In inches, of a width of 5.3.
    """
    style: Any = {**_STYLE, "svg.hashsalt": name}
    with rc_context(style):
        figure = Figure(figsize=(5.3, height), layout="constrained")
        if not fill(figure.add_subplot()):
            return []
        buffer = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    return [Plot(title, caption, _inline(buffer.getvalue(), name, title))]


def legend_above(axes: Axes, markerscale: float = 1.0) -> None:
    """A legend above the panel, where it hides nothing; in one line where it fits, else in two
    columns."""
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=len(labels) if sum(map(len, labels)) <= 30 else 2,
        frameon=False,
        borderaxespad=0.2,
        handletextpad=0.3,
        columnspacing=1.2,
        markerscale=markerscale,
    )


def _inline(svg: str, name: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    # Ids of all plots share the page.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    # The figure's own background would hide the page's.
    svg = svg.replace("fill: #ffffff", "fill: none")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
