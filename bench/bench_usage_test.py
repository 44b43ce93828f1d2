#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds doconv-bench to its word: bad usage exits 2 with a message that names the value, a good run leaves JSON and TSV that agree,
and a second run measures no variant again.

usage: bench_usage_test.py DOCONV_BENCH NETWORKS_DIRECTORY
"""
import json
import os
import re
import subprocess
import sys
import tempfile

bench, networks = sys.argv[1:3]
passed = failed = 0


def run(*arguments, **environment):
    return subprocess.run([bench, *arguments], capture_output=True, text=True, timeout=120, check=False,
                          env={**os.environ, "DOCONV_NETWORKS": networks, **environment})


def check(name, good, detail=""):
    global passed, failed
    print(f"[{'       OK ' if good else '  FAILED  '}] {name}" + ("" if good else f": {detail}"))
    passed, failed = passed + bool(good), failed + (not good)


BAD = [
    (["--nonsense=1"], "--nonsense=1"),
    (["resnet50"], "resnet50"),
    (["--networks=no_such_network"], "no_such_network"),
    (["--networks=./no_such_file.tsv"], "no_such_file.tsv"),
    (["--networks=resnet50,"], "resnet50,"),
    (["--problems=mb1_ic64"], "mb1_ic64"),
    (["--problems=ic8ih0oc8kh1"], "ic8ih0oc8kh1"),
    (["--problems=ic8ih8oc8kh1:src=sideways"], "sideways"),
    (["--problems=ic8ih8oc8kh1,rubbish"], "rubbish"),
    (["--engines=fftw"], "fftw"),
    (["--engines=doconv,doconv"], "doconv"),
    (["--isa=mmx"], "mmx"),
    (["--threads=0"], "0"),
    (["--threads=two"], "two"),
    (["--threads"], "--threads"),
    (["--batch=-1"], "-1"),
    (["--layout=chwn"], "chwn"),
    (["--accuracy=sloppy"], "sloppy"),
    (["--tune=maybe"], "maybe"),
    (["--json=/no/such/directory/sweep.json"], "/no/such/directory/sweep.json"),
    (["--tsv=/no/such/directory/sweep.tsv"], "/no/such/directory/sweep.tsv"),
    (["--benchmark_nonsense=1"], "--benchmark_nonsense=1"),
    (["--benchmark_filter=("], "("),
    (["--benchmark_filter=matches_nothing"], "matches_nothing"),
    (["--benchmark_format=xml"], "xml"),
    (["--benchmark_repetitions=many"], "many"),
]
for arguments, named in BAD:
    result = run(*arguments)
    check("refuses " + " ".join(arguments), result.returncode == 2 and named in result.stderr and "doconv-bench: " in result.stderr,
          f"status {result.returncode}, {result.stderr!r}")

result = run("--help")
check("--help", result.returncode == 0 and "--networks=" in result.stdout, result.stderr)

result = run("--networks=resnet18", "--engines=doconv", "--benchmark_list_tests")
check("lists the rows", result.returncode == 0 and len(result.stdout.split()) == 11 and
      all(line.startswith("doconv/mb1_ic") for line in result.stdout.split()), result.stdout + result.stderr)

PROBLEMS = "--problems=mb1_ic16ih9oc24kh3ph1:bias,relu,ic3ih20oc16kh3sh2ph1;g8ic8ih12oc8kh3ph1:src=nhwc,dst=nhwc"
with tempfile.TemporaryDirectory() as directory:
    cache, json_file, tsv_file = (os.path.join(directory, name) for name in ("cache", "sweep.json", "sweep.tsv"))
    for attempt in ("first", "second"):
        result = run(PROBLEMS, "--engines=doconv", "--json=" + json_file, "--tsv=" + tsv_file, "--benchmark_min_time=0.001",
                     DOCONV_CACHE=cache)
        check(f"{attempt} run", result.returncode == 0, result.stdout + result.stderr)
        counts = re.search(r"(\d+) problems tuned, (\d+) variants measured, (\d+) from the cache", result.stderr)
        check(f"{attempt} run tells what it tuned", counts is not None, result.stderr)
    # Noisy results aren't stored, and a busy machine may have some: then the second run may measure those.
    if counts and "were not stored" not in result.stderr:
        check("the second run measures nothing", counts[2] == "0" and counts[1] == counts[3], result.stderr)
    check("a row a problem", result.stdout.count("@") + result.stdout.count("reference") >= 3, result.stdout)
    with open(json_file, encoding="utf-8") as file:
        runs = json.load(file)["benchmarks"]
    check("JSON has a run a problem", len(runs) == 3 and all(r["run_name"].startswith("doconv/mb1_ic") or
                                                             r["run_name"].startswith("doconv/g8mb1_ic") for r in runs), runs)
    check("JSON has the counters", all(r.get("gflops", 0) > 0 and r["peak_pct"] > 0 and r["max_rel_err"] < 1e-5 and
                                       r["count"] == 1 and r["label"] and r["real_time"] > 0 for r in runs), runs)
    with open(tsv_file, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    check("TSV has the rows and the sums", len(rows) == 6 and all(len(row) == 14 for row in rows) and
          [row[1] for row in rows[4:]] == ["total", "geomean"], rows)
    check("TSV agrees with JSON", [row[1] for row in rows[1:4]] == [r["run_name"].split("/")[1] for r in runs] and
          all(abs(float(row[5]) - r["real_time"]) < 1e-5 for row, r in zip(rows[1:4], runs)), rows)

print(f"[  PASSED  ] {passed} test(s).")
if failed:
    print(f"[  FAILED  ] {failed} test(s).")
sys.exit(failed > 0)
