#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws a study of doconv-study: what both compositions take over a plain convolution, and where
feature composition begins to be the slower one.

usage: plot_study.py STUDY.json [--out=BASE]

Writes BASE.png and BASE.svg (overheads by pixels, and times by MACs), and BASE-crossover.png and
.svg (crossovers by layer); default: beside the study, with its name. Prints the crossovers.
"""
import argparse
import json
import math
import os
import sys

COLORS = {"kernel": "#0b6fb8", "feature": "#e08a1e", "doconv": "#0b6fb8", "pytorch": "#c0392b"}
NAMES = {"doconv": "doconv", "pytorch": "PyTorch"}
PASSES = {"forward": "forward", "step": "forward + backward"}


class BadInput(Exception):
    """What the user gave can't be drawn; the text says why."""


def series(rows, engine, which):
    return [row for row in rows if row["engine"] == engine and row["pass"] == which]


def both(row):
    return row["kernel_ms"] and row["feature_ms"]


def crossover(rows):
    """("at", P), where the times of rows of one layer and D_mul cross; ("below", P) or ("above", P)
    if that is outside of what was measured."""
    points = sorted((row["pixels"], math.log(row["feature_ms"] / row["kernel_ms"]))
                    for row in rows if both(row))
    if not points:
        return None
    for (low, before), (high, after) in zip(points, points[1:]):
        if before < 0 <= after:
            share = before / (before - after)
            return "at", math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return ("below", points[0][0]) if points[0][1] >= 0 else ("above", points[-1][0])


def crossovers(rows):
    """For each layer and D_mul: the formula's P, the range measured, and by engine and pass where
    the times cross."""
    table = {}
    for row in rows:
        table.setdefault((row["layer"], row["d_mul"]), []).append(row)
    result = []
    for (layer, d_mul), group in table.items():
        if group[0]["crossover_pixels"] is None:
            continue  # fewer MACs for any P
        pixels = [row["pixels"] for row in group]
        found = {}
        for engine in NAMES:
            for which in PASSES:
                cross = crossover(series(group, engine, which))
                if cross:
                    found[engine, which] = cross
        result.append({
            "layer": layer,
            "d_mul": d_mul,
            "formula": group[0]["crossover_pixels"],
            "range": (min(pixels), max(pixels)),
            "found": found,
        })
    return result


def print_crossovers(table, out=sys.stdout):
    signs = {"at": "", "below": "<", "above": ">"}
    columns = [(engine, which) for engine in NAMES for which in PASSES
               if any((engine, which) in entry["found"] for entry in table)]
    print(f"{'P where feature composition is as fast as kernel composition':<40}", file=out)
    heads = "".join(f"  {NAMES[engine] + ' ' + which:>16}" for engine, which in columns)
    print(f"{'layer':<34} {'D_mul':>5} {'formula':>8}{heads}", file=out)
    for entry in table:
        cells = []
        for column in columns:
            kind, pixels = entry["found"].get(column, (None, 0))
            cells.append("-" if kind is None else f"{signs[kind]}{pixels:.0f}")
        text = "".join(f"  {cell:>16}" for cell in cells)
        print(f"{entry['layer']:<34} {entry['d_mul']:>5} {entry['formula']:>8.0f}{text}", file=out)


def marker(row):
    return "^" if row["groups"] > 1 else "o"


def plot_row(axes, row, x, y, color, size):
    """A row's point: groups as a triangle, a D_mul other than M*N hollow."""
    axes.plot(x, y, marker(row), markersize=size, markeredgewidth=0.9, markeredgecolor=color,
              markerfacecolor=color if row["d_mul"] == row["taps"] else "none", zorder=3)


def draw_overheads(axes, rows):
    """Times over the plain convolution's by pixels; dashed: the formula's for kernel
    composition."""
    for composition in ("feature", "kernel"):
        for row in rows:
            if row["plain_ms"] and row[composition + "_ms"]:
                overhead = row[composition + "_ms"] / row["plain_ms"]
                plot_row(axes, row, row["pixels"], overhead, COLORS[composition], 5)
    if rows:
        low, high = (extreme(row["pixels"] for row in rows) for extreme in (min, max))
        pixels = [low * (high / low) ** (i / 60) if high > low else low for i in range(61)]
        formula = [1 + 9 / p for p in pixels]
        axes.plot(pixels, formula, "--", color=COLORS["kernel"], linewidth=1, zorder=2)
    axes.axhline(1, color="#444444", linewidth=0.8, zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("pixels P of the result")


def draw_agreement(axes, rows):
    """Feature over kernel composition, times by MACs: in two quadrants the formula tells the faster
    one, in the shaded ones it doesn't."""
    limits = [1, 1, 1, 1]
    for row in rows:
        if both(row):
            macs = row["feature_macs"] / row["kernel_macs"]
            time = row["feature_ms"] / row["kernel_ms"]
            limits = [min(limits[0], macs), max(limits[1], macs),
                      min(limits[2], time), max(limits[3], time)]
            plot_row(axes, row, macs, time, COLORS[row["engine"]], 4.5)
    left, right, bottom, top = limits[0] / 1.3, limits[1] * 1.3, limits[2] / 1.4, limits[3] * 1.4
    axes.fill_between([left, 1], 1, top, color="#eeeeee", zorder=0)
    axes.fill_between([1, right], bottom, 1, color="#eeeeee", zorder=0)
    axes.plot([left, right], [left, right], ":", color="#888888", linewidth=1, zorder=1)
    axes.axhline(1, color="#444444", linewidth=0.8, zorder=1)
    axes.axvline(1, color="#444444", linewidth=0.8, zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_xlabel("MACs, feature / kernel")


def tick_text(value, _):
    """How the number at a tick is written: 500, 20k, 3M."""
    if value < 1e4:
        return f"{value:g}"
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k"


def tidy(axes):
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
        axis.set_major_formatter(FuncFormatter(tick_text))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(color="#e4e4e4", linewidth=0.7, zorder=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def machine(rows):
    ours = next((row for row in rows if row["engine"] == "doconv"), rows[0])
    threads = f"{ours['threads']} thread{'s' if ours['threads'] != 1 else ''}"
    text = f"{ours['cpu']}, {ours['isa']}, {ours.get('layout', '')}, {threads}"
    theirs = next((row for row in rows if row["engine"] == "pytorch"), None)
    return text + (f"; PyTorch {theirs['version']}" if theirs else "")


def save(figure, base):
    for suffix, options in ((".png", {"dpi": 130}), (".svg", {})):
        figure.savefig(base + suffix, bbox_inches="tight", **options)
        print(base + suffix)


def draw_study(plt, rows, engines, base):
    from matplotlib.lines import Line2D

    columns = len(engines) + 1
    figure, grid = plt.subplots(2, columns, figsize=(4.6 * columns, 8.4), squeeze=False)
    for line, which in zip(grid, PASSES):
        for axes, engine in zip(line, engines):
            draw_overheads(axes, series(rows, engine, which))
            axes.set_title(f"{NAMES[engine]}, {PASSES[which]}", fontsize=10)
            axes.set_ylabel("time / plain convolution's")
            tidy(axes)
        draw_agreement(line[-1], [row for row in rows if row["pass"] == which])
        line[-1].set_title(f"does the formula tell? {PASSES[which]}", fontsize=10)
        line[-1].set_ylabel("time, feature / kernel")
        tidy(line[-1])

    def handle(color, name, shape="o", filled=True):
        return Line2D([], [], linestyle="none", marker=shape, markeredgecolor=color,
                      markerfacecolor=color if filled else "none", label=name)

    compositions = [
        handle(COLORS["kernel"], "kernel composition"),
        handle(COLORS["feature"], "feature composition"),
        handle("#666666", "depthwise or grouped", "^"),
        handle("#666666", "D_mul other than M·N", "o", False),
        Line2D([], [], linestyle="--", color=COLORS["kernel"], linewidth=1, label="1 + 9/P"),
    ]
    grid[0][0].legend(handles=compositions, fontsize=7.5, frameon=False)
    agreement = [handle(COLORS[engine], NAMES[engine]) for engine in engines]
    agreement.append(Line2D([], [], linestyle=":", color="#888888", label="time as MACs"))
    grid[0][-1].legend(handles=agreement, fontsize=7.5, frameon=False, loc="upper left")
    title = "DO-Conv: kernel and feature composition over a plain convolution"
    figure.suptitle(f"{title}\n{machine(rows)}", fontsize=11)
    figure.tight_layout()
    save(figure, base)
    plt.close(figure)


def draw_crossovers(plt, rows, table, engines, base):
    """A line a layer and D_mul: the pixels that were measured, the formula's crossover, and those
    measured."""
    from matplotlib.lines import Line2D

    size = (12.5, 1.8 + 0.21 * len(table))
    figure, grid = plt.subplots(1, 2, figsize=size, sharey=True, squeeze=False)
    shapes = {"at": "o", "below": "<", "above": ">"}
    for axes, which in zip(grid[0], PASSES):
        for place, entry in enumerate(table):
            axes.plot(entry["range"], [place, place], "-", color="#cccccc", linewidth=4,
                      solid_capstyle="butt", zorder=1)
            axes.plot(entry["formula"], place, "|", color="black", markersize=11,
                      markeredgewidth=1.8, zorder=2)
            for engine in engines:
                if (engine, which) in entry["found"]:
                    kind, pixels = entry["found"][engine, which]
                    height = place + (0.16 if engine == "pytorch" else -0.16)
                    axes.plot(pixels, height, shapes[kind], color=COLORS[engine], markersize=5,
                              zorder=3)
        axes.set_xscale("log")
        axes.set_xlabel("pixels P of the result")
        axes.set_title(PASSES[which], fontsize=10)
        tidy(axes)
    grid[0][0].set_yticks(range(len(table)))
    labels = [f"{entry['layer'].replace('->', '→')}, D_mul {entry['d_mul']}" for entry in table]
    grid[0][0].set_yticklabels(labels, fontsize=7.5)
    grid[0][0].invert_yaxis()
    handles = [
        Line2D([], [], linestyle="none", marker="|", markersize=11, markeredgewidth=1.8,
               color="black", label="formula: as many MACs"),
        Line2D([], [], color="#cccccc", linewidth=4, label="measured range of P"),
    ]
    for engine in engines:
        label = f"{NAMES[engine]}: times cross (◂ ▸: beyond the range)"
        handles.append(Line2D([], [], linestyle="none", marker="o", color=COLORS[engine],
                              label=label))
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False,
                  fontsize=8)
    title = "Below which P is feature composition the faster one?"
    figure.suptitle(f"{title}\n{machine(rows)}", fontsize=11)
    figure.tight_layout(rect=(0, 0.4 / figure.get_figheight(), 1, 1))
    save(figure, base + "-crossover")
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description="Draws a study of doconv-study as PNG and SVG.")
    parser.add_argument("study", help="its JSON file")
    parser.add_argument("--out", help="where to, without suffix (default: the study's path)")
    arguments = parser.parse_args()
    try:
        with open(arguments.study, encoding="utf-8") as file:
            rows = json.load(file)
        if not isinstance(rows, list) or not rows:
            raise BadInput("the study has no case")
        table = crossovers(rows)
        engines = [engine for engine in NAMES
                   if any(row["engine"] == engine and row["plain_ms"] for row in rows)]
        if not engines:
            raise BadInput("the study has no figure to draw")
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        print_crossovers(table)
        base = arguments.out or os.path.splitext(arguments.study)[0]
        draw_study(plt, rows, engines, base)
        if table:
            draw_crossovers(plt, rows, table, engines, base)
    except ImportError as error:
        sys.exit(f"plot_study.py: {error}")
    except (BadInput, OSError) as error:
        print(f"plot_study.py: {arguments.study}: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyError, TypeError, ValueError) as error:
        print(f"plot_study.py: {arguments.study} is no study of doconv-study: {error!r}",
              file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
