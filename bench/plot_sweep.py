#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws a sweep of doconv-bench: bars of both engines by layer, against the peak. In doconv's bar
the solid part is its best direct variant, the hatched one what another algorithm gains.

usage: plot_sweep.py SWEEP.json|SWEEP.tsv [--out=BASE] [--unit=percent|gflops] [--network=NAME]

Writes BASE.png and BASE.svg (default: beside the sweep, with its name), or BASE-NETWORK.png and
.svg for each of several networks.
"""
import argparse
import csv
import json
import os
import re
import sys

# Dark and light: to be told apart in grey too.
COLORS = {"doconv": "#0b5a99", "direct": "#0b5a99", "onednn": "#eda24a"}
NAMES = {"doconv": "doconv", "direct": "doconv, direct", "onednn": "oneDNN"}


class BadInput(Exception):
    """What the user gave can't be drawn; the text says why."""


def number(text):
    """A figure of a cell or a counter, or None where there is none ("-", "WRONG", an absent
    counter)."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def layer(network, problem, count):
    return {"network": network, "problem": problem, "count": count, "engines": {}, "seen": set()}


def read_json(path):
    """Layers in order from Google Benchmark's JSON, and the machine's description."""
    with open(path, encoding="utf-8") as file:
        sweep = json.load(file)
    context = sweep["context"]
    owners = []
    for part in context.get("networks", "").split(","):
        name, _, rows = part.rpartition(":")
        owners += [name] * int(rows or 0)
    # Repeated measurements come with aggregates: their median stands for the row, in the order of
    # the families.
    families = {}
    for run in sweep["benchmarks"]:
        aggregate = run.get("aggregate_name")
        if aggregate in (None, "median"):
            families.setdefault(run["family_index"], {})[aggregate] = run
    runs = [family.get("median", family.get(None)) for _, family in sorted(families.items())]
    layers = []
    for run in runs:
        engine, problem = run["run_name"].removesuffix("/cold").split("/", 1)
        if not layers or layers[-1]["problem"] != problem or engine in layers[-1]["seen"]:
            owner = owners[len(layers)] if len(layers) < len(owners) else "-"
            layers.append(layer(owner, problem, 1))
        row = layers[-1]
        row["seen"].add(engine)
        if "gflops" in run:
            row["count"] = int(run["count"])
            row["engines"][engine] = {
                "ms": run["real_time"],
                "gflops": run["gflops"],
                "percent": run["peak_pct"],
                "peak": run["peak_gflops"],
            }
    machine = ", ".join(str(context[key]) for key in ("cpu", "isa") if key in context)
    threads = context.get("bench_threads")
    machine += f", {threads} thread{'s' if threads != '1' else ''}" if threads else ""
    return layers, machine + (", cold weights" if context.get("weights") == "cold" else "")


def read_tsv(path):
    """Layers in order from the TSV, which doesn't describe the machine, and whether the weights
    were cold."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    layers = []
    for row in rows:
        if row["problem"] in ("total", "geomean"):
            continue
        result = layer(row["network"], row["problem"], int(row["count"]))
        for engine, prefix in (("doconv", ""), ("direct", "direct_"), ("onednn", "onednn_")):
            gflops, percent = number(row[prefix + "gflops"]), number(row[prefix + "peak_pct"])
            if gflops and percent:
                result["engines"][engine] = {
                    "ms": number(row[prefix + "ms"]),
                    "gflops": gflops,
                    "percent": percent,
                    "peak": 100 * gflops / percent,
                }
        layers.append(result)
    return layers, "cold weights" if any(row.get("weights") == "cold" for row in rows) else ""


def short_name(row):
    """"64→64 56² 3×3 s2" from a problem as benchdnn writes it."""
    sizes = row["problem"].split(":")[0]
    fields = {key: int(value)
              for key, value in re.findall(r"(mb|g|[io]c|[iokspd][hw])(\d+)", sizes)}

    def pair(kind, default):
        high = fields.get(kind + "h", default)
        return high, fields.get(kind + "w", high)

    image, kernel, stride, dilation = pair("i", 1), pair("k", 1), pair("s", 1), pair("d", 0)
    text = f"{fields.get('ic', '?')}→{fields.get('oc', '?')} "
    text += f"{image[0]}²" if image[0] == image[1] else f"{image[0]}×{image[1]}"
    text += f" {kernel[0]}×{kernel[1]}"
    if stride != (1, 1):
        text += f" s{stride[0]}" if stride[0] == stride[1] else f" s{stride[0]}×{stride[1]}"
    if dilation != (0, 0):
        text += f" d{dilation[0] + 1}"
    if fields.get("g", 1) > 1:
        text += f" g{fields['g']}"
    if fields.get("mb", 1) > 1:
        text += f" mb{fields['mb']}"
    return text + (f"  (×{row['count']})" if row["count"] > 1 else "")


def title_of(network, layers, engines, machine):
    """Network, and the weighted totals over the layers that every engine has."""
    whole = [row for row in layers if all(engine in row["engines"] for engine in engines)]
    totals = {engine: sum(row["engines"][engine]["ms"] * row["count"] for row in whole)
              for engine in engines}
    text = "convolutions" if network == "-" else network
    if whole:
        text += ": " + ", ".join(f"{NAMES.get(engine, engine)} {totals[engine]:.2f} ms"
                                 for engine in engines if engine != "direct" or len(engines) == 1)

        def ratio(engine):
            return f" (ratio {totals['onednn'] / totals[engine]:.2f})" if "onednn" in totals else ""

        text += ratio("doconv") if "doconv" in engines else ""
        if len(whole) < len(layers):
            text += f", {len(whole)} of {len(layers)} layers"
        if {"doconv", "direct"} <= set(engines):
            text += f"\ndirect variants alone: {totals['direct']:.2f} ms{ratio('direct')}"
    return text + (f"\n{machine}" if machine else "")


def draw_bars(axes, layers, engines, unit):
    """A bar for each engine and layer; that of doconv's direct variant over doconv's."""
    whole = {"doconv", "direct"} <= set(engines)
    bars = [engine for engine in engines if engine != "direct" or not whole]
    width = 0.8 / len(bars)
    for engine in engines:
        place = bars.index("doconv" if engine == "direct" and whole else engine)
        heights = [row["engines"].get(engine, {}).get(unit) or 0 for row in layers]
        positions = [i + (place - (len(bars) - 1) / 2) * width for i in range(len(layers))]
        if engine == "doconv" and whole:
            style = {"facecolor": "white", "edgecolor": COLORS[engine], "hatch": "////"}
        else:
            style = {"facecolor": COLORS[engine], "edgecolor": COLORS[engine]}
        label = "doconv, by another algorithm" if engine == "doconv" and whole else NAMES[engine]
        axes.bar(positions, heights, width, label=label, zorder=2, linewidth=0.8, **style)


def draw(network, layers, machine, unit, base):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    engines = [engine for engine in ("doconv", "direct", "onednn")
               if any(engine in row["engines"] for row in layers)]
    if not engines:
        raise BadInput("the sweep has no figure to draw")
    figure, axes = plt.subplots(figsize=(max(7.0, 2.2 + 0.42 * len(layers)), 5.2))
    draw_bars(axes, layers, engines, unit)
    if unit == "percent":
        axes.axhline(100, color="#444444", linewidth=1, linestyle="--", label="FMA peak", zorder=3)
        axes.set_ylabel("% of the FMA peak")
    else:
        peaks = [next((e["peak"] for e in row["engines"].values()), None) for row in layers]
        for i, peak in enumerate(peaks):
            if peak:
                axes.hlines(peak, i - 0.5, i + 0.5, color="#444444", linewidth=1, linestyle="--",
                            zorder=3, label="FMA peak" if i == 0 else None)
        axes.set_ylabel("GFLOP/s")
    axes.set_xticks(range(len(layers)))
    axes.set_xticklabels([short_name(row) for row in layers], rotation=55, ha="right",
                         rotation_mode="anchor", fontsize=8)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8, zorder=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="upper left", ncols=4 if len(layers) > 14 else 2, frameon=False, fontsize=9)
    axes.set_title(title_of(network, layers, engines, machine), fontsize=10)
    figure.tight_layout()
    for suffix, options in ((".png", {"dpi": 150}), (".svg", {})):
        figure.savefig(base + suffix, **options)
        print(base + suffix)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description="Draws a sweep of doconv-bench as PNG and SVG.")
    parser.add_argument("sweep", help="its JSON or TSV file")
    parser.add_argument("--out", help="where to, without suffix (default: the sweep's path)")
    parser.add_argument("--unit", choices=("percent", "gflops"), default="percent",
                        help="of the bars")
    parser.add_argument("--network", help="the only one to draw (default: all)")
    arguments = parser.parse_args()
    try:
        base, suffix = os.path.splitext(arguments.sweep)
        layers, machine = (read_json if suffix == ".json" else read_tsv)(arguments.sweep)
        networks = list(dict.fromkeys(row["network"] for row in layers))
        if not networks:
            raise BadInput("the sweep has no layer")
        if arguments.network is not None and arguments.network not in networks:
            raise BadInput(f'no network "{arguments.network}", only ' + ", ".join(networks))
        target = arguments.out or base
        for network in [arguments.network] if arguments.network else networks:
            name = "problems" if network == "-" else network
            drawn = [row for row in layers if row["network"] == network]
            draw(network, drawn, machine, arguments.unit,
                 target if len(networks) == 1 or arguments.network else f"{target}-{name}")
    except ImportError as error:
        sys.exit(f"plot_sweep.py: {error}")
    except (BadInput, OSError) as error:
        print(f"plot_sweep.py: {arguments.sweep}: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyError, TypeError, ValueError) as error:
        print(f"plot_sweep.py: {arguments.sweep} is no sweep of doconv-bench: {error!r}",
              file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
