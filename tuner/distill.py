#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Distils tuned caches to a few rules, and tells whether they choose better than the estimate.

usage: distill.py EXPORT... [--doconv=COMMAND] [--networks=DIRECTORY] [--rules=N]

EXPORT: files of `doconv cache export`, of one machine or several. The rules say, for each ISA,
which kernel a convolution should have by its shape; the kernel's parameters are the estimate's.
`doconv explain` tells the estimate's order of the candidates, so COMMAND (default: doconv) must be
of the build whose choices are distilled. Entries of what it doesn't list (another architecture's
kernels) are left out, with a note.

For each machine (an environment of the exports) this prints the regret, the share of speed that is
lost against the best measured candidate, 1 - geometric mean of best time / choice's time, and the
worst problem's: of the estimate; of the rules; of rules that were made without the layer that they
are asked about, on any machine; of rules that were made without any layer of its network. The last
two say what rules are worth on layers that nobody tuned. Then come the rules, and whether they beat
the estimate so on every machine, in the mean and at worst: 0 is returned then, else 3.
"""
import argparse
import collections
import itertools
import math
import os
import pathlib
import re
import subprocess
import sys

ESTIMATE = "estimate" # in place of a kernel: the estimate's own choice
SMALLEST_LEAF = 6 # problems; fewer prove nothing
LEAST_GAIN = 0.2 # of a rule, and of a cut in two: 20 % on one problem, 2 % on ten
FEATURES = ("taps", "stride", "group_inputs", "group_outputs", "pixels", "groups", "threads")
FIELD = re.compile(r"([a-z]+)(\d+)")

# A problem on a machine: what each action loses, the logarithm of its time / the best measured one.
Case = collections.namedtuple("Case", "machine isa layer features losses")


# ---- reading ----

def parse_problem(text):
    """The numbers of a problem's canonical text, by the names of their fields."""
    return {name: int(value) for name, value in FIELD.findall(text.split(":")[0])}


def features_of(problem, threads):
    """What rules ask about, in the order of FEATURES."""
    p = parse_problem(problem)
    groups = p.get("g", 1)
    return (p["kh"] * p["kw"], p["sh"] * p["sw"], p["ic"] // groups, p["oc"] // groups,
            p["oh"] * p["ow"], groups, threads)


def layer_of(problem):
    """What a problem has in common with the same layer in another batch."""
    p = parse_problem(problem)
    return tuple(p.get(name, 1) for name in ("g", "ic", "ih", "iw", "oc", "kh", "kw", "sh", "sw"))


def read_export(path):
    """The entries of an export: (machine, isa, problem, threads, {variant: seconds})."""
    machine, manifest, entry, entries = None, {}, None, []
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(" ")
        if name == "environment":
            machine, manifest, entry = value, {}, None
        elif name in ("cpu", "isa") and entry is None:
            manifest[name] = value
        elif name == "key":
            problem, *rest = value.split()
            attributes = dict(word.split("=", 1) for word in rest if "=" in word)
            entry = {}
            if {attributes.pop("weights"), attributes.pop("workspace")} != {"warm", "0"} or \
                    attributes.keys() > {"threads", "runner"}:
                continue # not an inference with the defaults, which explain would list
            entries.append((f"{manifest['cpu']} {manifest['isa']} {machine[:4]}", manifest["isa"],
                            problem, int(attributes["threads"]), entry))
        elif name == "measured" and entry is not None:
            seconds, *_, variant = value.split()
            entry[variant] = float(seconds) * 1e-12
    return entries


def group_of(variant):
    """SOLVER:KERNEL[+SECOND] of a variant."""
    return ":".join(variant.split(":")[:2])


def read_candidates(text):
    """The accepted candidates in what `doconv explain` prints, best estimate first. Long texts go
    on in further lines, which are indented."""
    variants = []
    for line in text.splitlines():
        words = line.split()
        if re.match(r"\w+:\w+@", line) and re.fullmatch(r"[\d.]+", words[-1]):
            variants.append(words[0])
        elif re.match(r"\w+:", line):
            variants.append(None) # refused; its further lines are no candidate's either
        elif line.startswith("  ") and words and variants and variants[-1] is not None:
            variants[-1] += words[0]
        elif not line and variants:
            break
    return [variant for variant in variants if variant is not None]


def explain(command, problem, isa, threads):
    """The candidates of a problem, best estimate first."""
    result = subprocess.run([command, "explain", problem, f"--isa={isa}", f"--threads={threads}"],
                            capture_output=True, text=True, check=False,
                            env={**os.environ, "DOCONV_TUNE": "off", "COLUMNS": "400"})
    return read_candidates(result.stdout) if result.returncode == 0 else []


def make_case(entry, candidates):
    """An entry as a case; None: these aren't the candidates that were measured."""
    machine, isa, problem, threads, measured = entry
    known = {variant: measured[variant] for variant in candidates if variant in measured}
    if not known or candidates[0] not in known:
        return None
    times = {ESTIMATE: known[candidates[0]]}
    for variant in candidates:
        # What was left out of the measurement counts as the slowest.
        times.setdefault(group_of(variant), known.get(variant, max(known.values())))
    best = min(known.values())
    return Case(machine, isa, layer_of(problem), features_of(problem, threads),
                {action: math.log(time / best) for action, time in times.items()})


# ---- rules ----

def lost(case, action):
    """A kernel that isn't among the candidates leaves the choice to the estimate."""
    return case.losses.get(action, case.losses[ESTIMATE])


def best_action(losses):
    """(loss, action) of the action that loses least, unless that gains too little."""
    best = min(sorted(losses), key=losses.get)
    if losses[best] > losses[ESTIMATE] - LEAST_GAIN:
        best = ESTIMATE
    return losses[best], best


def action_of(cases):
    """(loss, action) on all of the cases."""
    actions = {ESTIMATE}.union(*(case.losses for case in cases))
    return best_action({action: sum(lost(case, action) for case in cases) for action in actions})


def best_split(cases):
    """(loss, feature, threshold) of the cut in two that loses least."""
    actions = {ESTIMATE}.union(*(case.losses for case in cases))
    found = (math.inf, 0, 0)
    for feature in range(len(FEATURES)):
        ordered = sorted(cases, key=lambda case, f=feature: case.features[f])
        sums = {action: list(itertools.accumulate(lost(case, action) for case in ordered))
                for action in actions}
        for i in range(SMALLEST_LEAF, len(ordered) - SMALLEST_LEAF + 1):
            low, high = (ordered[j].features[feature] for j in (i - 1, i))
            if low < high:
                below = {action: values[i - 1] for action, values in sums.items()}
                above = {action: values[-1] - values[i - 1] for action, values in sums.items()}
                loss = best_action(below)[0] + best_action(above)[0]
                found = min(found, (loss, feature, (low + high) / 2))
    return found


def grow(cases, rules):
    """A tree of at most so many leaves: an action, or (feature, threshold, below, above). The leaf
    is cut first that gains most."""
    leaves = {(): cases}
    cuts = {}
    while len(leaves) < rules:
        gains = []
        for place, part in leaves.items():
            loss, feature, threshold = best_split(part)
            gains.append((action_of(part)[0] - loss, place, feature, threshold))
        gain, place, feature, threshold = max(gains)
        if gain < LEAST_GAIN:
            break
        part = leaves.pop(place)
        cuts[place] = (feature, threshold)
        leaves[place + (0,)] = [c for c in part if c.features[feature] <= threshold]
        leaves[place + (1,)] = [c for c in part if c.features[feature] > threshold]

    def tree(place):
        if place in leaves:
            return action_of(leaves[place])[1]
        below, above = tree(place + (0,)), tree(place + (1,))
        return below if below == above else (*cuts[place], below, above)
    return tree(())


def distill(cases, rules):
    """A tree for each ISA."""
    return {isa: grow([case for case in cases if case.isa == isa], rules)
            for isa in sorted({case.isa for case in cases})}


def ask(trees, case):
    """The action of the rules on a case."""
    tree = trees.get(case.isa, ESTIMATE)
    while isinstance(tree, tuple):
        feature, threshold, below, above = tree
        tree = below if case.features[feature] <= threshold else above
    return tree


# ---- what they are worth ----

def held_out(cases, classes, rules):
    """What rules say of each case that were made without the cases of its class: [(case, action)].
    classes: a set of layers each; a layer in several is left out with all of them."""
    answers = []
    for layer in sorted({case.layer for case in cases}):
        hidden = set().union({layer}, *(c for c in classes if layer in c))
        trees = distill([case for case in cases if case.layer not in hidden], rules)
        answers += [(case, ask(trees, case)) for case in cases if case.layer == layer]
    return answers


def regret(answers):
    """The share of speed lost, in the mean and at worst."""
    losses = [lost(case, action) for case, action in answers]
    return 1 - math.exp(-sum(losses) / len(losses)), 1 - math.exp(-max(losses))


def read_networks(directory):
    """The layers of each network, by the files of a directory."""
    networks = []
    for path in sorted(pathlib.Path(directory).glob("*.tsv")):
        header, *rows = (line.split("\t") for line in path.read_text().splitlines())
        layers = set()
        for row in rows:
            p = dict(zip(header, row))
            layers.add(tuple(int(p[name]) for name in
                             ("groups", "ci", "h", "w", "co", "kh", "kw", "sh", "sw")))
        networks.append(layers)
    return networks


def evaluate(cases, networks, rules):
    """Prints the regrets of each machine; returns whether the rules beat the estimate on all."""
    ways = {
        "estimate": [(case, ESTIMATE) for case in cases],
        "rules": [(case, ask(trees, case)) for trees in [distill(cases, rules)] for case in cases],
        "rules, layer unseen": held_out(cases, [], rules),
        "rules, network unseen": held_out(cases, networks, rules),
    }
    better = True
    for machine in sorted({case.machine for case in cases}):
        found = {way: regret([a for a in answers if a[0].machine == machine])
                 for way, answers in ways.items()}
        print(f"{machine}: {sum(case.machine == machine for case in cases)} problems")
        for way, (mean, worst) in found.items():
            print(f"  {way:24} loses {100 * mean:5.2f} %, at worst {100 * worst:5.1f} %")
        for way in ("rules, layer unseen", "rules, network unseen"):
            better = better and found[way][0] < found["estimate"][0] and \
                found[way][1] <= found["estimate"][1]
    return better


# ---- rules as text ----

def lines_of(tree, conditions=()):
    """A tree as (conditions, action), one for each leaf."""
    if not isinstance(tree, tuple):
        return [(conditions, tree)]
    feature, threshold, below, above = tree
    return (lines_of(below, conditions + ((feature, "<=", threshold),)) +
            lines_of(above, conditions + ((feature, ">", threshold),)))


def print_rules(trees):
    """For people."""
    for isa, tree in trees.items():
        for conditions, action in lines_of(tree):
            text = " and ".join(f"{FEATURES[f]} {sign} {value:g}" for f, sign, value in conditions)
            print(f"{isa}: {text or 'always'}: {action}")


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", nargs="+", type=pathlib.Path)
    parser.add_argument("--doconv", default="doconv")
    parser.add_argument("--networks", default=pathlib.Path(__file__).parents[1] / "networks")
    parser.add_argument("--rules", type=int, default=12)
    options = parser.parse_args()
    cases, unknown = [], 0
    for entry in (entry for path in options.exports for entry in read_export(path)):
        case = make_case(entry, explain(options.doconv, entry[2], entry[1], entry[3]))
        unknown += case is None
        cases += [case] if case else []
    if unknown:
        print(f"{unknown} entries are left out: {options.doconv} has not their candidates, or the "
              "estimate's choice was not measured")
    if not cases:
        sys.exit("distill.py: no entry can be used")
    better = evaluate(cases, read_networks(options.networks), options.rules)
    print_rules(distill(cases, options.rules))
    print("the rules do better" if better else "the estimate does better")
    sys.exit(0 if better else 3)


if __name__ == "__main__":
    main()
