"""The curves of a run: loss, gradient norm and ||eps_p - eps_phi||. Apart, since matplotlib takes long to import."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from torch import Tensor

from backend.files import replacing

# curve's name -> its title
PANELS = {"loss": "loss", "gradient": "gradient norm", "gap": r"$\|\epsilon_p - \epsilon_\phi\|$"}
STAGE_COLOURS = {"nerf": "#2a78b8", "geometry": "#d9772b", "texture": "#3a9152", "refine": "#8559a8"}


def draw_curves(path: Path, curves: dict[str, dict[str, Tensor]]) -> None:
    """A row a stage: loss, gradient norm and ||eps_p - eps_phi|| over the iterations, on log scales.

    curves  stage -> {"loss", "gradient", "gap"} -> [iterations]; what is not finite and positive is left out
    """
    rows = max(1, len(curves))
    # inches; shares of a panel
    room = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.1, wspace=0.03, hspace=0.02)
    figure = Figure(figsize=(12, 0.5 + 2.3 * rows), dpi=100, layout=room)
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, len(PANELS), squeeze=False)
    for row, (stage, values) in zip(panels, curves.items(), strict=False):
        for axes, name in zip(row, PANELS, strict=True):
            _draw_curve(axes, values[name].double().cpu().numpy(), STAGE_COLOURS.get(stage, "#555555"))
        row[0].set_ylabel(stage, fontsize=12, labelpad=12)
    for axes, title in zip(panels[0], PANELS.values(), strict=True):
        axes.set_title(title, fontsize=12, pad=10)
    for axes in panels[-1]:
        axes.set_xlabel("iteration", color="#666666")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw_curve(axes: Axes, values: NDArray[np.float64], colour: str) -> None:
    """Every iteration faintly, and the median of its neighbourhood, which is what one looks at."""
    shown = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    steps = np.arange(len(shown))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.tick_params(which="both", color="#bbbbbb", labelcolor="#666666", labelsize=9)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_xlim(0, max(1, len(shown) - 1))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if np.isnan(shown).all():
        axes.set_yticks([])
        axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", color="#999999")
        return
    axes.set_yscale("log")
    wide = np.nanmax(shown) / np.nanmin(shown) > 100
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.plot(steps, shown, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(steps, _running_median(shown), color=colour, linewidth=1.8)


def _running_median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over a twentieth of the curve, shorter at its ends; NaN where nothing near is a number."""
    reach = max(1, len(values) // 40)
    padded = np.pad(values, reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    known = ~np.isnan(windows).all(1)
    result = np.full(len(values), np.nan)
    result[known] = np.nanmedian(windows[known], axis=1)
    return result
