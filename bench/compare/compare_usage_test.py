#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds doconv-compare to its word: bad usage exits 2 with a message that names the value, a build
beside itself has the same variants and bits, a table and a TSV, and what can't be loaded ends in a
message.

usage: compare_usage_test.py DOCONV_COMPARE LIBDOCONV NETWORKS_DIRECTORY WITH_TUNER (true, false)
"""
import csv
import os
import subprocess
import sys
import tempfile

compare, library, networks = sys.argv[1:4]
with_tuner = sys.argv[4] == "true"
wrapper = os.environ.get("MESON_EXE_WRAPPER", "").split()
passed = failed = 0

HEADER = "count\tci\th\tw\tco\tkh\tkw\tsh\tsw\tpt\tpl\tpb\tpr\tdh\tdw\tgroups\n"
LAYERS = [(2, 8, 9, 7, 24, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 1),
          (1, 16, 6, 6, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 16),
          (3, 8, 4, 4, 12, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1)]
STEP = "mb2_ic8ih6oc8kh3ph1"


def run(*arguments, **environment):
    return subprocess.run([*wrapper, compare, *arguments], capture_output=True, text=True,
                          timeout=100, check=False,
                          env={**os.environ, "DOCONV_NETWORKS": networks, **environment})


def check(name, good, detail=""):
    global passed, failed
    print(f"[{'       OK ' if good else '  FAILED  '}] {name}" + ("" if good else f": {detail}"))
    passed, failed = passed + bool(good), failed + (not good)


def read_tsv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


BAD = [
    ([library], "two libraries"),
    ([library, library, "third"], "third"),
    ([library, library, "--nonsense=1"], "--nonsense"),
    (["--networks=no_such_network", "--list"], "no_such_network"),
    (["--networks=./no_such_file.tsv", "--list"], "no_such_file.tsv"),
    (["--networks=resnet18,", "--list"], "empty"),
    (["--networks", "--list"], "--networks"),
    (["--networks=none", "--steps=none", "--list"], "nothing to compare"),
    (["--steps=ic8", "--list"], "ic8"),
    (["--steps=" + STEP + ":relu", "--list"], "relu"),
    (["--steps=" + STEP] * 17 + ["--list"], "too many"),
    (["--layout=chwn", "--list"], "chwn"),
    (["--isa=mmx", "--list"], "mmx"),
    (["--seconds=0", "--list"], "0"),
    (["--seconds=nan", "--list"], "nan"),
    (["--seconds=1s", "--list"], "1s"),
    ([library, library, "--tuned"], "--cache"),
]
for arguments, named in BAD:
    result = run(*arguments)
    check("refuses " + " ".join(arguments[-2:])[:60],
          result.returncode == 2 and named in result.stderr and not result.stdout,
          f"exit {result.returncode}: {result.stderr}{result.stdout}")

result = run("--help")
check("--help", result.returncode == 0 and "--tuned" in result.stdout, result.stderr)
result = run("--list")
check("--list has the networks and the steps", result.returncode == 0 and all(
    name in result.stdout for name in ("resnet50\n", "mobilenet_v2\n", "resnext50_32x4d\n",
                                       "kernel step  mb8_ic64ih56iw56oc64")), result.stdout)
check("and is in NHWC", "src=nhwc,dst=nhwc" in result.stdout and "nchw" not in result.stdout)
result = run("--list", "--networks=none", "--steps=ic8ih6oc8kh1", "--layout=nchw")
check("a 1x1 step is plain", result.stdout.count("step") == 2 and "plain" in result.stdout,
      result.stdout)

with tempfile.TemporaryDirectory() as directory:
    network, tsv = os.path.join(directory, "small.tsv"), os.path.join(directory, "compare.tsv")
    with open(network, "w", encoding="utf-8") as file:
        file.write(HEADER + "".join("\t".join(map(str, layer)) + "\n" for layer in LAYERS))
    small = ["--networks=" + network, "--steps=" + STEP, "--seconds=0.001", "--tsv=" + tsv]

    tuned = ["--tuned", "--cache=" + os.path.join(directory, "cache")]
    ways = [("estimated", []), ("nchw", ["--layout=nchw"]), ("nChw16c", ["--layout=nChw16c"]),
            ("without SIMD", ["--isa=none"])]
    if with_tuner:
        ways += [("tuned", tuned), ("tuned before", tuned)]
    else:
        result = run(library, library, *small, *tuned)
        check("a build without the tuner tunes nothing", result.returncode == 1 and
              "no tuner" in result.stderr, result.stderr)
    for title, options in ways:
        # A user's settings must not reach the libraries.
        result = run(library, library, *small, *options, "--name=itself", DOCONV_VERBOSE="2",
                     DOCONV_MAX_ISA="nonsense")
        rows = read_tsv(tsv) if result.returncode == 0 else []
        check(f"a build beside itself, {title}", result.returncode == 0 and len(rows) == 5,
              f"exit {result.returncode}: {result.stderr}{result.stdout}")
        check("the same variants", all(row["variant_rev"] == row["variant_this"] and
                                       bool(row["variant_rev"]) == (row["kind"] == "layer")
                                       for row in rows), rows)
        check("the same bits", title.startswith("tuned") or all(
            row["same_bits"] == "1" and float(row["max_rel_difference"]) == 0
            for row in rows), rows)
        check("at least 25 samples", all(int(row["samples"]) >= 25 for row in rows), rows)
        check("quartiles around the ratio", all(
            0 < float(row["low_quartile"]) <= float(row["ratio"]) <= float(row["high_quartile"])
            for row in rows), rows)
        lines = result.stdout.splitlines()
        names = ("problem", "8->24 9x7 3x3 s2x1", "16->16 6x6 3x3 g16", "mb2 8->8 6x6 3x3", "sums",
                 "small", "steps", "all")
        check("a table with sums", all(any(line.startswith(name + " ") for line in lines)
                                       for name in names), result.stdout)
        check("and the commit's name", result.stdout.count("ms itself") == 2, result.stdout)
        check("the user's settings stay out", "nonsense" not in result.stderr, result.stderr)

    broken = os.path.join(directory, "broken.so")
    with open(broken, "w", encoding="utf-8") as file:
        file.write("no library\n")
    for path, expected in ((broken, "broken.so"), (os.path.join(directory, "none.so"), "none.so")):
        result = run(path, library, *small)
        check(f"a library that is {os.path.basename(path)}",
              result.returncode == 1 and expected in result.stderr and not result.stdout,
              result.stderr)
    result = run(library, library, *small, "--tsv=/no/such/directory/compare.tsv")
    check("a TSV that can't be written", result.returncode == 1 and
          "/no/such/directory/compare.tsv" in result.stderr, result.stderr)

print(f"[  PASSED  ] {passed} test(s).")
if failed:
    print(f"[  FAILED  ] {failed} test(s).")
sys.exit(failed > 0)
