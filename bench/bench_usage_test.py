#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds doconv-bench to its word: bad usage exits 2 with a message that names the value, a good run
leaves JSON and TSV that agree, and a second run measures no variant again.

usage: bench_usage_test.py DOCONV_BENCH NETWORKS_DIRECTORY
"""
import csv
import json
import os
import re
import subprocess
import sys
import tempfile

bench, networks = sys.argv[1:3]
passed = failed = 0


def run(*arguments, preexec_fn=None, **environment):
    return subprocess.run([bench, *arguments], capture_output=True, text=True, timeout=120,
                          check=False, preexec_fn=preexec_fn,
                          env={**os.environ, "DOCONV_NETWORKS": networks, **environment})


def tuned(result):
    """What a run says it tuned: problems, variants measured and from the cache; or None."""
    return re.search(r"(\d+) problems tuned, (\d+) variants measured, (\d+) from the cache",
                     result.stderr)


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
    (["--cold=maybe"], "maybe"),
    (["--packed=1k"], "1k"),
    (["--packed=0"], "0"),
    (["--plans=maybe"], "maybe"),
    (["--plans", "--tsv=plans.tsv"], "--tsv"),
    (["--tune=audit", "--cold"], "--cold"),
    (["--tune=audit", "--plans"], "--plans"),
    (["--tune=audit", "--engines=doconv"], "--engines"),
    (["--tune=audit", "--seconds=0"], "--seconds"),
    (["--tune=audit", "--tsv=/no/such/directory/audit.tsv"], "/no/such/directory/audit.tsv"),
    (["--tune=audit", "--cache=/dev/null/cache", "--benchmark_filter=("], "("),
    (["--seconds=1"], "--seconds"),
    (["--cache=somewhere"], "--cache"),
    (["--chain=yes"], "yes"),
    (["--chain", "--plans"], "--plans"),
    (["--chain", "--cold"], "--cold"),
    (["--chain", "--networks=restoration"], "without edges"),
    (["--threads=1024"], "1024"),
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
    told = named in result.stderr and "doconv-bench: " in result.stderr
    check("refuses " + " ".join(arguments), result.returncode == 2 and told,
          f"status {result.returncode}, {result.stderr!r}")

result = run("--help")
check("--help", result.returncode == 0 and "--networks=" in result.stdout, result.stderr)

result = run("--networks=resnet18", "--engines=doconv", "--benchmark_list_tests")
check("lists the rows", result.returncode == 0 and len(result.stdout.split()) == 11 and
      all(line.startswith("doconv/mb1_ic") for line in result.stdout.split()),
      result.stdout + result.stderr)

PROBLEMS = ("--problems=mb1_ic16ih9oc24kh3ph1:bias,relu,ic3ih20oc16kh3sh2ph1;"
            "g8ic8ih12oc8kh3ph1:src=nhwc,dst=nhwc")
COLD_PROBLEMS = ("--problems=mb1_ic32ih9oc48kh3ph1,"
                 "g32ic32ih12oc32kh3ph1:src=nhwc,dst=nhwc")
with tempfile.TemporaryDirectory() as directory:
    cache, json_file, tsv_file = (os.path.join(directory, name)
                                  for name in ("cache", "sweep.json", "sweep.tsv"))
    quick = ["--engines=doconv", "--json=" + json_file, "--tsv=" + tsv_file,
             "--benchmark_min_time=0.001"]
    for attempt in ("first", "second"):
        result = run(PROBLEMS, *quick, DOCONV_CACHE=cache)
        check(f"{attempt} run", result.returncode == 0, result.stdout + result.stderr)
        counts = tuned(result)
        check(f"{attempt} run tells what it tuned", counts is not None, result.stderr)
    # Noisy results aren't stored, and a busy machine may have some: then the second run may measure
    # those.
    if counts and "were not stored" not in result.stderr:
        check("the second run measures nothing", counts[2] == "0" and counts[1] == counts[3],
              result.stderr)
    check("a row a problem",
          all(name in result.stdout for name in ("16->24 9x9 3x3", "3->16 20x20 3x3 s2",
                                                 "8->8 12x12 3x3 g8")), result.stdout)
    with open(json_file, encoding="utf-8") as file:
        runs = json.load(file)["benchmarks"]
    check("JSON has a run a problem", len(runs) == 3 and
          all(r["run_name"].startswith(("doconv/mb1_ic", "doconv/g8mb1_ic")) for r in runs), runs)
    check("JSON has the counters",
          all(r.get("gflops", 0) > 0 and r["peak_pct"] > 0 and r["max_rel_err"] < 1e-5 and
              r["count"] == 1 and r["label"] and r["real_time"] > 0 for r in runs), runs)
    check("JSON has the copy's counters",
          all(r["copy_pct"] > 0 and r["copy_gbs"] > 0 and r["cold_weights"] == 0 for r in runs),
          runs)
    with open(tsv_file, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    check("TSV has the rows and the sums",
          len(rows) == 6 and all(len(row) == len(rows[0]) for row in rows) and
          [row[1] for row in rows[4:]] == ["total", "geomean"], rows)
    check("TSV agrees with JSON",
          [row[1] for row in rows[1:4]] == [r["run_name"].split("/")[1] for r in runs] and
          all(abs(float(row[5]) - r["real_time"]) < 1e-5 for row, r in zip(rows[1:4], runs)), rows)
    check("TSV has the copy's share, and says how the weights are",
          len(rows[0]) == 34 and rows[0][14] == "copy_pct" and rows[0][17] == "weights" and
          all(abs(float(row[14]) - r["copy_pct"]) < 1e-2 for row, r in zip(rows[1:4], runs)) and
          all(row[17] == "warm" for row in rows[1:]), rows)
    check("the table has the copy's share: a layer is depthwise", "% copy" in result.stdout,
          result.stdout)

    # Cold and warm figures are tuned apart, and each tells which it is.
    for attempt, measures in (("first", True), ("second", False)):
        result = run("--cold", COLD_PROBLEMS, *quick, DOCONV_CACHE=cache)
        check(f"{attempt} cold run", result.returncode == 0 and "cold weights" in result.stdout,
              result.stdout + result.stderr)
        counts = tuned(result)
        if measures:
            check("the first cold run measures", counts is not None and counts[2] != "0",
                  result.stderr)
        elif counts and "were not stored" not in result.stderr:
            check("the second cold run measures nothing", counts[2] == "0", result.stderr)
    keys = [line for folder, _, files in os.walk(cache) for name in files
            for line in open(os.path.join(folder, name), encoding="utf-8", errors="replace")
            if "weights=cold" in line]
    check("the cache has keys of cold weights", keys or "were not stored" in result.stderr, keys)
    check("the table says so, and has the copy's share",
          "doconv, cold" in result.stdout and "% copy" in result.stdout, result.stdout)
    with open(json_file, encoding="utf-8") as file:
        sweep = json.load(file)
    runs = sweep["benchmarks"]
    check("JSON says so", sweep["context"]["weights"] == "cold" and len(runs) == 2 and
          all(r["run_name"].endswith("/cold") and r["cold_weights"] == 1 and
              r["max_rel_err"] < 1e-5 for r in runs), sweep)
    with open(tsv_file, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    check("TSV says so", len(rows) == 5 and all(row[17] == "cold" for row in rows[1:]), rows)

    # The best direct variant beside the choice of the class, where that isn't direct itself.
    layer = "--problems=ic64ih28oc64kh3ph1,ic64ih14oc64kh1"
    both = ["--engines=doconv,direct", "--json=" + json_file, "--tsv=" + tsv_file,
            "--benchmark_min_time=0.001"]
    result = run(layer, *both, "--tune=off", DOCONV_CACHE=cache)
    check("doconv beside its direct variants", result.returncode == 0, result.stdout)
    check("the table has them, and fits 120 columns",
          "direct's time / doconv's" in result.stdout and
          all(len(line) <= 120 for line in result.stdout.split("\n")), result.stdout)
    with open(json_file, encoding="utf-8") as file:
        sweep = json.load(file)
    runs = {r["run_name"]: r for r in sweep["benchmarks"]}
    check("JSON has both, with layouts and errors",
          sweep["context"]["accuracy"] == "default" and len(runs) == 4 and
          sum(name.startswith("direct/") for name in runs) == 2 and
          all(r["layout"] and r["rms_rel_err"] > 0 and r["rms_rel_err"] < r["max_rel_err"]
              for r in runs.values()) and
          all("winograd" not in r["label"] for name, r in runs.items()
              if name.startswith("direct/")), runs)
    with open(tsv_file, encoding="utf-8") as file:
        header, *rows = (line.rstrip("\n").split("\t") for line in file)
    rows = [dict(zip(header, row)) for row in rows]
    check("TSV has both",
          all(r["accuracy"] == "default" and "winograd" not in r["direct_variant"] and
              abs(float(r["gain"]) - float(r["direct_ms"]) / float(r["ms"])) < 1e-3 and
              float(r["direct_err"]) < 1e-5 and float(r["rms_ratio"]) > 0 for r in rows[:2]) and
          float(rows[3]["gain"]) > 0, rows)
    check("a choice that is direct serves twice",
          all(r["gain"] == "1.00000" or r["variant"] != r["direct_variant"] for r in rows[:2]),
          rows)
    result = run(layer, "--accuracy=strict", "--tune=off", "--benchmark_list_tests")
    check("strict has no direct variants beside", result.returncode == 0 and
          "doconv/" in result.stdout and "direct/" not in result.stdout, result.stdout)
    result = run(layer, "--cold", "--engines=direct", *quick[3:], "--tune=off")
    check("the direct variants alone, cold", result.returncode == 0 and
          "direct, cold" in result.stdout, result.stdout + result.stderr)

    # Plans: the cache has the problems of the first runs.
    result = run(PROBLEMS, "--plans", "--json=" + json_file, DOCONV_CACHE=cache)
    check("plans are timed", result.returncode == 0 and all(
        title in result.stdout for title in ("from the cache on disk", "from memory",
                                             "by estimate")), result.stdout + result.stderr)
    with open(json_file, encoding="utf-8") as file:
        runs = [r for r in json.load(file)["benchmarks"] if "src=nhwc,dst=nhwc" in r["run_name"]]
    kinds = {r["run_name"].split("/")[0] for r in runs}
    check("JSON has a benchmark of each way",
          kinds == {"plan_disk", "plan_memory", "plan_estimate"} or
          "were not stored" in result.stderr and kinds == {"plan_estimate"}, runs)
    check("JSON has the plans' times", all(0 < r["real_time"] < 1e6 and r["time_unit"] == "us"
                                           for r in runs), runs)

AUDIT = re.compile(r"^audit: (\d+) layers, within 3%: ([\d.]+)%, worst: (-?[\d.]+)%, "
                   r"estimate: ([\d.]+)% of tuned$", re.M)


def audit(*arguments, **environment):
    """The result of an audit of small layers, and the figures of its last line or None."""
    audited = run("--tune=audit", "--seconds=0.02", *arguments, **environment)
    return audited, AUDIT.search(audited.stdout)


with tempfile.TemporaryDirectory() as directory:
    layers, json_file, tsv_file = (os.path.join(directory, name)
                                   for name in ("tiny.tsv", "audit.json", "audit.tsv"))
    with open(layers, "w", encoding="utf-8") as file:
        file.write("count ci h w co kh kw sh sw pt pl pb pr dh dw groups\n".replace(" ", "\t"))
        for row in ("2 16 9 9 16 3 3 1 1 1 1 1 1 1 1 1", "1 16 9 9 16 3 3 2 2 1 1 1 1 1 1 16"):
            file.write(row.replace(" ", "\t") + "\n")
    user_cache = os.path.join(directory, "user")
    result, line = audit("--networks=" + layers, "--json=" + json_file, "--tsv=" + tsv_file,
                         DOCONV_CACHE=user_cache, TMPDIR=directory)
    check("an audit ends with its line", result.returncode == 0 and line is not None and
          line[1] == "2" and 0 <= float(line[2]) <= 100 and float(line[4]) > 0 and
          result.stdout.endswith(line[0] + "\n"), result.stdout + result.stderr)
    check("an audit is of one layout", result.stdout.count(" nhwc ") == 2 and
          "layout nhwc" in result.stderr, result.stdout)
    check("an audit leaves no cache behind",
          set(os.listdir(directory)) == {"tiny.tsv", "audit.json", "audit.tsv"},
          os.listdir(directory))
    with open(tsv_file, encoding="utf-8") as file:
        header, *rows = (row.rstrip("\n").split("\t") for row in file)
    rows = [dict(zip(header, row)) for row in rows]
    check("TSV has the choices and how far behind they are",
          len(rows) == 2 and all(
              row["problem"].endswith(":src=nhwc,dst=nhwc") and row["origin"] == "measured" and
              int(row["candidates"]) >= int(row["raced"]) > 0 and int(row["rounds"]) >= 12 and
              all(":" in row[name] and float(row[name + "_ms"]) > 0
                  for name in ("tuned", "best", "estimate")) and
              (row["best"] != row["tuned"] or float(row["behind_pct"]) == 0) and
              (row["estimate"] != row["tuned"] or float(row["estimate_speed"]) == 1)
              for row in rows), rows)
    behind = [float(row["behind_pct"]) for row in rows]
    check("the line sums up the rows", line is not None and
          float(line[2]) == 50 * sum(value <= 3 for value in behind) and
          abs(float(line[3]) - max(0, *behind)) < 0.06, (line, rows))
    with open(json_file, encoding="utf-8") as file:
        sweep = json.load(file)
    runs = {r["run_name"]: r for r in sweep["benchmarks"]}
    check("JSON has the three of each layer",
          sweep["context"]["tune"] == "audit" and len(runs) == 6 and all(
              runs[name + "/" + row["problem"]]["label"] == row[name] for row in rows
              for name in ("tuned", "best", "estimate")), runs)

    # Of a cache: what is in it is audited, what is not is tuned and kept.
    own = ["--problems=ic16ih9oc24kh3ph1", "--cache=" + user_cache, "--tsv=" + tsv_file]
    origins = []
    for _ in range(2):
        result, line = audit(*own)
        with open(tsv_file, encoding="utf-8") as file:
            origins.append(file.readlines()[1].split("\t")[4] if line else result.stderr)
    check("an audit of a cache", origins in (["measured", "cache"], ["measured", "measured"]),
          origins)
    result, line = audit("--problems=ic16ih9oc24kh3ph1:bias,residual,relu", "--layout=best",
                         "--accuracy=strict", TMPDIR=directory)
    check("an audit of every layout", line is not None and int(line[1]) > 3 and
          "winograd" not in result.stdout, result.stdout + result.stderr)
# A network with a pooling between, channels of two layers, and residuals in place and not.
CHAIN = """name	input	residual	post	bias	ci	h	w	co	kh	kw	sh	sw	pt	pl	pb	pr	dh	dw	groups
a	-	-	relu	1	3	12	12	16	3	3	1	1	1	1	1	1	1	1	1
b	a	-	relu	1	16	6	6	16	3	3	1	1	1	1	1	1	1	1	1
c	b	a	relu6	1	16	6	6	16	3	3	1	1	1	1	1	1	1	1	1
d	c	c	none	0	16	6	6	16	3	3	1	1	1	1	1	1	1	1	16
e	d,b	d	none	1	32	6	6	16	1	1	1	1	0	0	0	0	1	1	1
"""
with tempfile.TemporaryDirectory() as folder:
    network, tsv, json_file = (os.path.join(folder, name)
                               for name in ("tiny.tsv", "chain.tsv", "chain.json"))
    with open(network, "w", encoding="utf-8") as file:
        file.write(CHAIN)
    for batch in "1", "2":
        result = run("--chain", "--networks=" + network, "--tsv=" + tsv, "--json=" + json_file,
                     "--batch=" + batch, "--tune=off")
        check("a chain, batch " + batch, result.returncode == 0 and
              "tiny: a chain of 5 layers" in result.stdout, result.stdout + result.stderr)
        with open(tsv, encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        whole = [r for r in rows if r["layer"] == "-"]
        check("TSV has each chain and its layers",
              len(rows) == 6 * len(whole) and
              {(r["engine"], r["layout"][:4]) for r in whole} >=
              {("doconv", "nhwc"), ("doconv", "nChw"), ("direct", "nhwc"), ("direct", "nChw")},
              rows)
        check("chains agree", all(float(r["err"]) < 1e-5 for r in whole), whole)
    with open(json_file, encoding="utf-8") as file:
        names = [r["name"] for r in json.load(file)["benchmarks"]]
    run("--chain", "--networks=" + network, "--tsv=" + tsv, "--engines=doconv", "--layout=nhwc",
        DOCONV_CACHE=os.path.join(folder, "cache"))
    with open(tsv, encoding="utf-8") as file:
        predicted = [float(r["predicted_ms"]) for r in csv.DictReader(file, delimiter="\t")]
    check("a chain's prediction is the sum of its layers'",
          len(predicted) == 6 and abs(predicted[0] - sum(predicted[1:])) < 1e-4, predicted)
    check("JSON has the chains", any(n.startswith("chain/doconv/nhwc/tiny") for n in names), names)

dense = "--problems=ic16ih9oc24kh3ph1"
quick = ["--engines=doconv,direct", "--tune=off", "--benchmark_min_time=0.001"]
result = run(dense, *quick)
check("no copy's share in the table of dense layers",
      result.returncode == 0 and "% copy" not in result.stdout, result.stdout + result.stderr)

if len(os.sched_getaffinity(0)) >= 2:
    result = run("--threads=2", dense, *quick)
    check("two threads", result.returncode == 0 and "2 threads" in result.stderr and
          "of 2 cores" in result.stdout and "direct" in result.stdout,
          result.stdout + result.stderr)
    one = {min(os.sched_getaffinity(0))}
    result, line = audit("--threads=2", dense)
    check("an audit of two threads", line is not None, result.stdout + result.stderr)
    result = run("--threads=2", dense, preexec_fn=lambda: os.sched_setaffinity(0, one))
    check("refuses two threads on one core", result.returncode == 2 and "1 core" in result.stderr,
          result.stdout + result.stderr)

print(f"[  PASSED  ] {passed} test(s).")
if failed:
    print(f"[  FAILED  ] {failed} test(s).")
sys.exit(failed > 0)
