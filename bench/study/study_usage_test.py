#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds doconv-study to its word: bad usage exits 2 with a message that names the value, MACs are
the formula's, a run leaves JSON that agrees with its table, and a PyTorch that is missing, dies,
hangs up or is wrong ends in a message. No PyTorch is needed: programs that speak its part stand in.

usage: study_usage_test.py DOCONV_STUDY NETWORKS_DIRECTORY
"""
import json
import os
import subprocess
import sys
import tempfile

study, networks = sys.argv[1:3]
wrapper = os.environ.get("MESON_EXE_WRAPPER", "").split()
passed = failed = 0

HEADER = "count\tci\th\tw\tco\tkh\tkw\tsh\tsw\tpt\tpl\tpb\tpr\tdh\tdw\tgroups\n"
LAYERS = {
    "dense": (8, 9, 7, 24, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 1),
    "grouped": (8, 6, 6, 12, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4),
    "depthwise": (16, 6, 6, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 16),
    "pointwise": (8, 4, 4, 8, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1),
    "uneven": (4, 6, 6, 4, 3, 2, 1, 1, 1, 0, 0, 1, 1, 1, 1),
}

# Speaks PyTorch's part: MODE says how it fails.
STAND_IN = """#!{python}
import os, signal, sys, time
mode = {mode!r}
if mode == "missing":
    print("no PyTorch can't be imported: No module named 'torch'", flush=True)
    sys.exit(1)
if mode == "silent":
    sys.exit(3)
if mode == "babble":
    print("hello", flush=True)
if mode == "cpus":
    print(f"may run on {{len(os.sched_getaffinity(0))}} CPUs", file=sys.stderr)
print("doconv-study-pytorch 1 9.9", flush=True)
for line in sys.stdin:
    verb = line.split()[0]
    if verb == "time" and mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if verb == "time" and mode == "refuses":
        print("no MemoryError: too large", flush=True)
    elif verb == "sums" and mode == "too many":
        print("sums 1 2 3 4 5 6 7 8 9", flush=True)
    elif verb == "sums":
        print("sums nan" if mode == "nan" else "sums 0.5", flush=True)
    else:
        print("ok" if verb == "case" else "ms 1.5", flush=True)
"""


def run(*arguments, **environment):
    settings = {"DOCONV_NETWORKS": networks, "DOCONV_TUNE": "", **environment}
    return subprocess.run([*wrapper, study, *arguments], capture_output=True, text=True,
                          timeout=240, check=False, env={**os.environ, **settings})


def check(name, good, detail=""):
    global passed, failed
    print(f"[{'       OK ' if good else '  FAILED  '}] {name}" + ("" if good else f": {detail}"))
    passed, failed = passed + bool(good), failed + (not good)


BAD = [
    (["--nonsense=1"], "--nonsense"),
    (["resnet50"], "resnet50"),
    (["--networks=no_such_network"], "no_such_network"),
    (["--networks=./no_such_file.tsv"], "no_such_file.tsv"),
    (["--networks=resnet18,"], "empty"),
    (["--layers=matches_nothing"], "matches_nothing"),
    (["--layers"], "--layers"),
    (["--batch=0"], "0"),
    (["--batch=1,two"], "two"),
    (["--batch=1,,8"], "empty"),
    (["--batch=" + ",".join("1" * 17)], "too many"),
    (["--d-mul=nm"], "nm"),
    (["--d-mul=-9"], "-9"),
    (["--threads=0"], "0"),
    (["--threads=1024"], "1024"),
    (["--isa=mmx"], "mmx"),
    (["--layout=chwn"], "chwn"),
    (["--accuracy=exact"], "exact"),
    (["--tune=maybe"], "maybe"),
    (["--seconds=0"], "0"),
    (["--seconds=nan"], "nan"),
    (["--memory=lots"], "lots"),
    (["--layers=64->64 56x56", "--json=/no/such/directory/study.json"],
     "/no/such/directory/study.json"),
    (["--pytorch=/no/such/python"], "/no/such/python"),
]
for arguments, named in BAD:
    result = run(*arguments)
    check("refuses " + " ".join(arguments)[:60],
          result.returncode == 2 and named in result.stderr and not result.stdout,
          f"exit {result.returncode}: {result.stderr}{result.stdout}")

result = run("--help")
check("--help", result.returncode == 0 and "--d-mul" in result.stdout, result.stderr)
result = run("--list")
SOME = ("3->64 224x224 7x7 s2", "512->512 7x7 3x3", "32->32 112x112 3x3 g32", "64->64 256x256 3x3")
check("--list has the study's layers", result.returncode == 0 and
      all(name in result.stdout for name in SOME) and "1x1" not in result.stdout, result.stdout)
check("each shape once", result.stdout.count("512->512 7x7 3x3 ") == 9 and
      "resnet18,resnet50" in result.stdout, result.stdout)
counts = [len(run("--list", f"--layers={pattern}").stdout.splitlines()) - 2
          for pattern in ("resnet18/*", "* 7x7 s2", "512->512 7x7", "*g*")]
check("patterns", counts[0] > counts[1] == 9 and counts[2] == 9 and counts[3] > 0, counts)

with tempfile.TemporaryDirectory() as directory:
    network, json_file = (os.path.join(directory, name) for name in ("small.tsv", "study.json"))
    lines = ["\t".join(map(str, (1, *layer))) + "\n" for layer in LAYERS.values()]
    with open(network, "w", encoding="utf-8") as file:
        file.write(HEADER + "".join(lines))
    small = ["--networks=" + network, "--tune=off", "--seconds=0.001"]

    for layout, isa in (("nhwc", "default"), ("nchw", "none"), ("nChw16c", "default")):
        result = run(*small, "--batch=1,3", "--d-mul=mn,4,12", f"--layout={layout}",
                     f"--isa={isa}", "--json=" + json_file)
        check(f"a run in {layout}", result.returncode == 0 and "WRONG" not in result.stdout,
              result.stdout + result.stderr)
        with open(json_file, encoding="utf-8") as file:
            rows = json.load(file)
        check("JSON has a row a case and pass", len(rows) == 4 * 2 * 3 * 2 and
              all(row["engine"] == "doconv" for row in rows), len(rows))
        check("and times of all",
              all(row[name + "_ms"] > 0 for row in rows
                  for name in ("plain", "kernel", "feature", "auto")), rows)
        check("and what auto chose",
              all(row["auto_choice"].split(":")[0] in ("kernel", "feature") for row in rows), rows)
    result = run(*small, "--batch=1", "--d-mul=9,mn", "--layers=8->24", "--json=" + json_file)
    with open(json_file, encoding="utf-8") as file:
        rows = json.load(file)
    check("the same D_mul counts once", len(rows) == 2, rows)
    check("layer, batch, D_mul and pass",
          [(row["layer"], row["batch"], row["d_mul"], row["pass"]) for row in rows] ==
          [("8->24 9x7 3x3 s2x1", 1, 9, "forward"), ("8->24 9x7 3x3 s2x1", 1, 9, "step")], rows)
    P = 5 * 7
    macs = {
        "plain": 8 * 24 * 9 * P,
        "kernel": 8 * 24 * 9 * (9 + P),
        "feature": 8 * 9 * P * (9 + 24),
    }
    check("MACs by the formula",
          all(rows[0][name + "_macs"] == value and rows[1][name + "_macs"] == 3 * value
              for name, value in macs.items()) and
          rows[0]["pixels"] == P and abs(rows[0]["crossover_pixels"] - 24) < 1e-6, rows)
    check("the table has them too", result.stdout.count("x 1.257") == 2, result.stdout)
    result = run(*small, "--batch=1", "--layers=*g4", "--d-mul=9", "--json=" + json_file)
    with open(json_file, encoding="utf-8") as file:
        rows = json.load(file)
    check("MACs of groups", rows[0]["kernel_macs"] == 2 * 12 * 9 * (9 + 36) and
          rows[0]["feature_macs"] == 8 * 9 * 36 * (9 + 3), rows)

    if not wrapper and len(os.sched_getaffinity(0)) >= 2:
        result = run(*small, "--batch=1", "--layers=8->24", "--threads=2")
        check("two threads", result.returncode == 0 and "2 threads" in result.stderr,
              result.stdout + result.stderr)
        program = os.path.join(directory, "python")
        with open(program, "w", encoding="utf-8") as file:
            file.write(STAND_IN.format(python=sys.executable, mode="cpus"))
        os.chmod(program, 0o755)
        result = run(*small, "--batch=1", "--layers=8->24", "--threads=2", "--pytorch=" + program)
        told = f"may run on {len(os.sched_getaffinity(0))} CPUs"
        check("two threads of PyTorch's", told in result.stderr, result.stdout + result.stderr)

    result = run(*small, "--batch=1", "--layers=8->24", "--memory=1e-6")
    check("what holds too much is skipped with a reason",
          result.returncode == 1 and "--memory" in result.stderr, result.stdout + result.stderr)

    one = [*small, "--batch=1", "--d-mul=mn,12", "--layers=8->24", "--json=" + json_file]
    modes = [
        ("missing", 2, "No module named 'torch'"),
        ("silent", 2, "exit status 3"),
        ("babble", 2, "hello"),
        ("killed", 1, "signal 9"),
        ("refuses", 0, "MemoryError"),
        ("wrong", 1, "WRONG"),
        ("nan", 1, "WRONG"),
        ("too many", 0, "more than"),
    ]
    for mode, status, expected in modes:
        program = os.path.join(directory, "python")
        with open(program, "w", encoding="utf-8") as file:
            file.write(STAND_IN.format(python=sys.executable, mode=mode))
        os.chmod(program, 0o755)
        result = run(*one, "--pytorch=" + program)
        check(f"a PyTorch that is {mode}",
              result.returncode == status and expected in result.stdout + result.stderr,
              f"exit {result.returncode}: {result.stderr}{result.stdout}")
        if status != 2:
            with open(json_file, encoding="utf-8") as file:
                rows = json.load(file)
            check("leaves doconv's figures and no wrong ones", len(rows) == 8 and
                  all((row["plain_ms"] is None) == (row["engine"] == "pytorch") for row in rows),
                  rows)

print(f"[  PASSED  ] {passed} test(s).")
if failed:
    print(f"[  FAILED  ] {failed} test(s).")
sys.exit(failed > 0)
