#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Changes the sources a little, one place at a time, and asks whether any test sees it.

mutate.py [OPTION ...] [FILE ...]

FILE: sources or folders of src and tuner, relative to the root; none: tuner. Of each source some
changes are drawn (--count), the same for the same --seed: another comparison, operator or constant,
a condition negated, a statement left out, a return at once. Each is made in a copy of the tree,
built, and run through the tests that bear on its folder, cheapest first, until one fails, crashes
or takes far too long: then it is caught. A change that the compiler refuses, or makes the same
object of, is drawn again. Those that live are listed, FILE:LINE and what was changed.

A survivor is a question, not a fault: no test looks at that line, or the change changes nothing
that anybody is promised (how fast an estimate thinks something is, the size of a buffer).
"""
import argparse
import concurrent.futures
import hashlib
import json
import math
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

# Programs of tests/ that bear on a folder or file, in any order: their times are taken first. A
# pattern after a name: of the program's tests only these.
TUNER = ["test_cachefile", "test_measure", "test_measure_choice", "test_cache",
         "test_cache_clean", "test_tuner", "test_tuner_checks", "test_tuner_modes",
         "test_tuner_operations"]
PLAN = ["test_api", "test_desc", "test_empty", "test_layout", "test_overlap", "test_plan",
        "test_text", "test_problem_lines", "test_tasks", "test_limits"]
TRAIN = ["test_training", "test_fresh", "test_operations", "test_weight_gradient", "test_limits",
         "test_tuner_layers"]
TESTS = {
    "tuner": TUNER,
    "src/base": PLAN + ["test_versions", "test_runner", "test_cache", "test_tuner_modes",
                        "test_measure", "test_measure_choice"],
    "src/geometry": ["test_plan", "test_limits", "test_fresh", "test_training", "test_winograd",
                     "test_kernels direct_f32_*", "test_kernels pixel*", "test_kernels planes*"],
    "src/plan": PLAN + ["test_versions", "test_bits", "test_fold", "test_fresh", "test_operations",
                        "test_tuner_modes", "test_tuner_layers"],
    "src/solvers": ["test_plan", "test_tasks", "test_limits", "test_fresh", "test_bits",
                    "test_winograd", "test_kernels"],
    "src/solvers/winograd": ["test_plan", "test_limits", "test_fresh", "test_bits",
                             "test_winograd", "test_winograd_pack"],
    "src/solvers/grouped.c": ["test_plan", "test_tasks", "test_limits", "test_bits",
                              "test_kernels depthwise*", "test_kernels grouped*"],
    "src/solvers/planes.c": ["test_plan", "test_tasks", "test_limits", "test_bits",
                             "test_kernels planes*"],
    "src/solvers/pixel.c": ["test_plan", "test_tasks", "test_limits", "test_bits",
                            "test_kernels pixel*"],
    "src/solvers/direct": ["test_plan", "test_tasks", "test_limits", "test_fresh", "test_bits",
                           "test_kernels direct*"],
    "src/compose": ["test_fold", "test_fold_once", "test_feature", "test_tasks"] + TRAIN,
    "src/train": TRAIN,
    "src/checkpoint": ["test_checkpoint_kinds", "test_checkpoint_refused", "test_checkpoint"],
    "src/library.c": ["test_api"],
}
ARGUMENTS = {"test_problem_lines": ["tests/problem_lines.tsv"]}
ENVIRONMENT = {"DOCONV_TEST_SCALE": "10", "DOCONV_TUNE": "off", "DOCONV_MAX_ISA": "",
               "DOCONV_VERBOSE": ""}
OPTIONS = ["-Dbuildtype=plain", "-Doptimization=1", "-Ddefault_library=static",
           "-Dopenmp=disabled", "-Dbench=disabled", "-Donednn=disabled"]
# A change may make a loop endless: so many times its usual time is far too long, and this more.
# Both are CPU time, to which a busy machine or a stopped process adds nothing.
PATIENCE, LEAST_SECONDS = 8, 5
# On top of them, by the clock: for what waits for ever and takes no CPU time.
WAITING_SECONDS = 300
MEMORY_BYTES = 16 << 30

# ---- what is changed ----

SWAPS = [("comparison", {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}),
         ("operator", {"+": "-", "-": "+", "*": "+", "/": "*", "%": "+", "+=": "-=", "-=": "+=",
                       "<<": ">>", ">>": "<<", "&": "|", "|": "&"}),
         ("logic", {"&&": "||", "||": "&&"})]
WORDS = {"true": "false", "false": "true", "least": "most", "most": "least", "fmin": "fmax",
         "fmax": "fmin"}
NO_EXPRESSION = {"return", "if", "for", "while", "switch", "case", "default", "else", "do", "goto",
                 "typedef", "static", "const", "struct", "enum", "union", "break", "continue",
                 "extern", "volatile"}


def masked(text):
    """The text with spaces for comments, strings and what the preprocessor reads."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match.group())
    text = re.sub(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])+'", blank, text,
                  flags=re.S)
    # Values of macros stay: they are constants like others.
    text = re.sub(r"^[ \t]*#[ \t]*define[ \t]+\w+(\([^)]*\))?", blank, text, flags=re.M)
    return re.sub(r"^[ \t]*#[ \t]*(?!define)(?:[^\\\n]|\\\n|\\.)*", blank, text, flags=re.M)


def closing(text, start):
    """Where the bracket that opens at start is closed."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i
    return len(text)


def changes_of(text):
    """Every change: (start, end, replacement, kind)."""
    code = masked(text)
    found = []
    for kind, swaps in SWAPS:
        # As clang-format writes it, a binary operator has spaces around it.
        pattern = "|".join(re.escape(op) for op in sorted(swaps, key=len, reverse=True))
        for match in re.finditer(rf"(?<= )(?:{pattern})(?=[ \n])", code):
            found.append((*match.span(), swaps[match.group()], kind))
    for match in re.finditer(r"\b(?:" + "|".join(WORDS) + r")\b(?!\w)", code):
        found.append((*match.span(), WORDS[match.group()], "word"))
    for match in re.finditer(r"(?<![\w.])\d+(?:\.\d+)?(?:[eE][-+]?\d+)?f?(?![\w.])", code):
        number = match.group()
        whole = number.isdigit()
        after = str(int(number) ^ 1 if number in "01" else int(number) + 1) if whole else "0.0"
        if whole or float(number.rstrip("f")) != 0.0:
            found.append((*match.span(), after, "constant"))
    for match in re.finditer(r"\b(?:if|while) (?=\()", code):
        start, end = match.end(), closing(code, match.end()) + 1
        found.append((start, end, "(!" + text[start:end] + ")", "condition"))
    for match in re.finditer(r"\b(?:break|continue);", code):
        found.append((*match.span(), ";", "statement"))
    for match in re.finditer(r"\breturn ([^;]+);", code):
        if match.group(1) not in ("0", "false", "NULL", "DOCONV_OK"):
            found.append((*match.span(1), "0", "return"))
            found.append((*match.span(1), "!(" + text[match.start(1):match.end(1)] + ")", "return"))
    for match in re.finditer(r"^(?:static )?(?:inline )?void \w+\([^;{]*\)\n\{", code, re.M):
        found.append((match.end(), match.end(), " return;", "return"))
    for match in re.finditer(r"(?<=[;{}:)])\s+([A-Za-z_*(][^;{}]*[)\w\]+-]);", code):
        statement = match.group(1)
        if code[match.start() - 1] == ")" and "\n" not in match.group()[:2]:
            continue # a cast or a sum, no statement of its own
        if re.match(r"\w*", statement).group() not in NO_EXPRESSION and \
                re.search(r"[(=]|\+\+|--", statement):
            found.append((*match.span(1), "", "statement"))
    return sorted(set(found))


class Change:
    """One of them, in a file."""

    def __init__(self, file, text, change):
        self.file, self.text = file, text
        self.start, self.end, self.after, self.kind = change
        self.line = text.count("\n", 0, self.start) + 1

    def changed(self):
        """The file's text with it."""
        return self.text[:self.start] + self.after + self.text[self.end:]

    def __str__(self):
        before = " ".join(self.text[self.start:self.end].split())
        first = self.text.rfind("\n", 0, self.start) + 1
        line = self.text[first:self.text.index("\n", self.start)].strip()
        after = " ".join(self.after.split())
        return (f"{self.file}:{self.line}: {self.kind}: \"{before}\" -> \"{after}\" in\n"
                f"    {line}")


# ---- copies of the tree ----

def listed(root):
    """The files of the tree that git knows or would take; without git, all but its builds."""
    try:
        output = subprocess.run(["git", "-C", root, "ls-files", "-z", "-co", "--exclude-standard"],
                                check=True, capture_output=True).stdout.decode()
        names = {name for name in output.split("\0") if name and (root / name).is_file()}
    except (OSError, subprocess.CalledProcessError):
        names = set()
    return names or {str(p.relative_to(root)) for p in root.rglob("*")
                     if p.is_file() and p.relative_to(root).parts[0] not in ("build", ".git")}


def synchronize(root, tree):
    """Makes a copy of the root like it, and touches only what differs."""
    names = listed(root)
    for name in names:
        data, copy = (root / name).read_bytes(), tree / name
        if not copy.is_file() or copy.read_bytes() != data:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
            copy.chmod((root / name).stat().st_mode)
    for path in list(tree.rglob("*")):
        name = path.relative_to(tree)
        if path.is_file() and name.parts[0] != "build" and str(name) not in names:
            path.unlink()


def run_limited(command, seconds, **options):
    """Runs a command; its exit status, or None if it waited too long; it is killed when one of its
    processes has used so many seconds of CPU time. Nothing of it stays."""
    def limit():
        most = math.ceil(seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=limit,
                          **options) as process:
        try:
            return process.wait(seconds + WAITING_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def cpu_seconds():
    """Of all commands that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Copy:
    """A built copy of the tree, in which one change at a time is tried."""

    def __init__(self, tree):
        self.tree, self.build = tree, tree / "build"
        self.temporary = tree / "build" / "temporary"
        self.objects = {}
        for entry in json.loads((self.build / "compile_commands.json").read_text()):
            file = os.path.normpath(os.path.join(self.build, entry["file"]))
            name = os.path.relpath(file, self.build)
            self.objects.setdefault(os.path.normpath(os.path.join("build", name)), []).append(
                entry["output"])

    def ninja(self, *targets):
        """Builds; false if that fails."""
        return run_limited(["ninja", "-C", self.build, "-j1", "--quiet", *targets], 600) == 0

    def test(self, name, seconds):
        """Runs a test program: 0 if it passes in so many seconds of CPU time."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir()
        home = str(self.temporary)
        environment = dict(os.environ, **ENVIRONMENT, TMPDIR=home, HOME=home, XDG_CACHE_HOME=home,
                           DOCONV_CACHE=home + "/cache")
        program, *patterns = name.split()
        arguments = patterns + [str(self.tree / a) for a in ARGUMENTS.get(program, [])]
        return run_limited([self.build / "tests" / program, *arguments], seconds, env=environment,
                           cwd=self.temporary)

    def digest(self, file):
        """Of the objects that a source is compiled to."""
        return [hashlib.sha256((self.build / o).read_bytes()).digest() for o in self.objects[file]]

    def try_change(self, change, tests, limits):
        """The test that catches it, "" if none does; None: there is nothing to catch."""
        path = self.tree / change.file
        objects = self.objects.get(change.file, [])
        path.write_text(change.text, encoding="utf-8")
        if not objects or not self.ninja(*objects):
            raise RuntimeError(f"{change.file} is not compiled")
        before = self.digest(change.file)
        try:
            path.write_text(change.changed(), encoding="utf-8")
            if not self.ninja(*objects) or self.digest(change.file) == before:
                return None
            for name in tests:
                if not self.ninja(f"tests/{name.split()[0]}") or self.test(name, limits[name]) != 0:
                    return name
            return ""
        finally:
            path.write_text(change.text, encoding="utf-8")


def first_copy(root, tree, options, targets, jobs):
    """The copy that others are copies of, built."""
    tree.mkdir(parents=True, exist_ok=True)
    synchronize(root, tree)
    build = tree / "build"
    if not (build / "build.ninja").exists():
        subprocess.run(["meson", "setup", build, tree, *options], check=True,
                       stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", build, f"-j{jobs}", "--quiet", *targets], check=True)
    return Copy(tree)


# ---- the run ----

class Run:
    """Changes of some files, tried on several copies at once."""

    def __init__(self, root, work, options=None, tests=None, jobs=1):
        self.root, self.work, self.jobs = root, work, jobs
        self.options = OPTIONS if options is None else options
        self.tests = TESTS if tests is None else tests
        self.copies, self.limits, self.times = [], {}, {}
        self.lock = threading.Lock()
        self.caught, self.survivors = 0, []

    def tests_of(self, file):
        """Those that bear on a file, cheapest first."""
        folders = [f for f in self.tests if file == f or file.startswith(f + "/")]
        names = self.tests[max(folders, key=len)] if folders else []
        return sorted(set(names), key=lambda name: self.times.get(name, 0.0))

    def prepare(self, files):
        """Copies and builds; takes the time of each test."""
        names = sorted({name for file in files for name in self.tests_of(file)})
        first = first_copy(self.root, self.work / "0", self.options,
                           sorted({f"tests/{name.split()[0]}" for name in names}), self.jobs)
        for name in names:
            start = cpu_seconds()
            if first.test(name, 1200) != 0:
                raise RuntimeError(f"{name} fails without any change")
            self.times[name] = cpu_seconds() - start
            self.limits[name] = PATIENCE * self.times[name] + LEAST_SECONDS
        self.copies = [first]
        for number in range(1, self.jobs):
            tree = self.work / str(number)
            shutil.rmtree(tree, ignore_errors=True)
            shutil.copytree(first.tree, tree, symlinks=True) # with its times, so nothing is built
            self.copies.append(Copy(tree))

    def work_on(self, copy, file, text, drawn, wanted):
        """Tries changes of a file until so many were worth it."""
        tried = 0
        for one in drawn:
            if tried == wanted:
                break
            change = Change(file, text, one)
            by = copy.try_change(change, self.tests_of(file), self.limits)
            if by is None:
                continue
            tried += 1
            with self.lock:
                if by:
                    self.caught += 1
                else:
                    self.survivors.append(change)
                    print(f"SURVIVES {change}", flush=True)
        copy.ninja(*copy.objects.get(file, []))

    def run(self, files, count, seed):
        """Tries count changes of each file."""
        free = list(self.copies)

        def task(file):
            text = (self.root / file).read_text(encoding="utf-8")
            drawn = changes_of(text)
            random.Random(f"{seed}:{file}").shuffle(drawn)
            with self.lock:
                copy = free.pop()
            try:
                self.work_on(copy, file, text, drawn, count)
            finally:
                with self.lock:
                    free.append(copy)
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            for future in [pool.submit(task, file) for file in files]:
                future.result()


def sources(root, names):
    """The C sources that the names (files or folders) stand for."""
    found = []
    for name in names:
        path = root / name
        if path.is_dir():
            found += sorted(str(p.relative_to(root)) for p in path.rglob("*.c"))
        elif path.suffix == ".c" and path.is_file():
            found.append(os.path.normpath(name))
        else:
            sys.exit(f"mutate.py: {name} is no C source or folder of {root}")
    return [f for f in dict.fromkeys(found) if pathlib.Path(f).name not in
            ("no_tuner.c", "no_safetensors.c")]


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("files", nargs="*", default=["tuner"], help="sources or folders")
    parser.add_argument("--count", type=int, default=12, help="changes of each file (12)")
    parser.add_argument("--seed", type=int, default=1, help="draws others (1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="copies at work")
    parser.add_argument("--work", type=pathlib.Path,
                        help="keep the copies here, for the next run (else: none is left)")
    args = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parent.parent
    files = sources(root, args.files)
    with tempfile.TemporaryDirectory() as temporary:
        run = Run(root, (args.work or pathlib.Path(temporary)).resolve(), jobs=args.jobs)
        run.prepare(files)
        run.run(files, args.count, args.seed)
    total = run.caught + len(run.survivors)
    print(f"{len(files)} files, {total} changes: {run.caught} caught, "
          f"{len(run.survivors)} survive")


if __name__ == "__main__":
    main()
