#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds the look of the sources: what a formatter doesn't see, and a reader does.

check_style.py SOURCE_ROOT

Looks at the files that git lists, or, where there is no git, at the tree. Lines have at most 100
columns; C is indented by spaces; a file's name is there once, so that it says which file is meant;
headers of src say in their first comment who may include them; sources begin with their license.
Exits 1 and names each violation, 2 if there is nothing to look at.
"""
import fnmatch
import os
import pathlib
import re
import subprocess
import sys

COLUMNS = 100
C = ("*.c", "*.h", "*.cpp")
# Kinds of files by their names.
SOURCES = C + ("*.py", "*.sh", "*.ini", "meson.build", "meson_options.txt", "run")
# By their paths, in which a * stands for any number of folders.
HEADERS_WITH_USERS = "src/*.h"

# (rule, path, why it doesn't hold there).
EXCEPTIONS = [
    ("*", "tests/headers_0.1/*", "a frozen copy of the headers that version 0.1 installed"),
    ("license", "examples/minimal.c", "README.md shows it whole, as what a user writes"),
    ("name", "*meson.build", "Meson looks for this name"),
    ("name", "*CMakeLists.txt", "CMake looks for this name"),
    ("name", "*__init__.py", "Python looks for this name"),
    ("name", "*README.md", "readers look for this name"),
    ("name", ".ci/run", "starts ./run, and is never called without its folder's name"),
]

# Who may include a header: "For src/train." or "Any file of src may include this."
USERS = re.compile(r"(^|[.;] )For [^ ]|\bmay include this\b")
LICENSE = re.compile(r"(/\*|//|#) SPDX-License-Identifier: \S+( \*/)?$")


def excepted(rule, path):
    """Does a rule not hold for a file?"""
    return any(of in ("*", rule) and fnmatch.fnmatchcase(path, pattern)
               for of, pattern, _ in EXCEPTIONS)


def named(path, patterns):
    """Has the file one of these names?"""
    name = os.path.basename(path)
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def listed_by_git(root):
    """The files that git knows here, relative to the root; none: there is no git, or no commit."""
    # A hook's environment may name another repository.
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith("GIT_")}
    try:
        output = subprocess.run(["git", "-C", root, "ls-files", "-z"], check=True, env=environment,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [path for path in output.decode().split("\0") if path and (root / path).is_file()]


def found_in(root):
    """The files of the tree, relative to the root, without builds that were made in it."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in (".git", "build") and
                      not pathlib.Path(folder, name, "build.ninja").exists()]
        found += [str(pathlib.Path(folder, name).relative_to(root)) for name in files]
    return found


def first_comment(text):
    """The text of the first comment of a C file after the line of its license, as one line."""
    match = re.match(r"(?:/\* SPDX[^\n]*\n)?\s*/\*(.*?)\*/", text, re.S)
    return " ".join(re.sub(r"(?m)^ \*", "", match.group(1)).split()) if match else ""


def check_lines(path, lines):
    """Lines that are too long or indented by tabs."""
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS:
            yield "columns", f"{path}:{number}: {len(line)} columns, {COLUMNS} at most"
        if named(path, C) and re.match(r" *\t", line):
            yield "tabs", f"{path}:{number}: indented by a tab"


def check_file(path, text):
    """What is wrong in a source: (rule, in words)."""
    lines = text.splitlines()
    yield from check_lines(path, lines)
    head = lines[1:2] if text.startswith("#!") else lines[:1]
    if not head or not LICENSE.match(head[0]):
        yield "license", f"{path}: the first line, or that after #!, is no SPDX-License-Identifier"
    if fnmatch.fnmatchcase(path, HEADERS_WITH_USERS) and not USERS.search(first_comment(text)):
        yield "users", f'{path}: its first comment lacks "For ..." or "... may include this"'


def check_names(paths):
    """Names that several files have."""
    homes = {}
    for path in paths:
        if not excepted("name", path):
            homes.setdefault(os.path.basename(path), []).append(path)
    for name, places in sorted(homes.items()):
        if len(places) > 1:
            yield f"{name}: the name of several files: {', '.join(sorted(places))}"


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    root = pathlib.Path(sys.argv[1])
    paths = sorted(listed_by_git(root) or found_in(root))
    sources = [path for path in paths if named(path, SOURCES)]
    if not sources:
        print(f"{root}: no sources")
        return 2
    wrong = list(check_names(paths))
    for path in sources:
        text = (root / path).read_text(encoding="utf-8")
        wrong += [words for rule, words in check_file(path, text) if not excepted(rule, path)]
    for words in wrong:
        print(words)
    print(f"{len(paths)} files, {len(sources)} sources: {len(wrong)} violations")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
