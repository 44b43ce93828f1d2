#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds the floors of the tree: each folder uses only its own and lower ones.

check_floors.py SOURCE_ROOT BUILD_ROOT NM

By #include: a file includes headers of its own folder and of lower floors alone; files of src write
the way from src. By symbol: what an object of the build leaves undefined is defined in its own
folder or on a lower floor. Exits 1 and names each violation.
"""
import os.path
import pathlib
import re
import subprocess
import sys

# Lowest first. Rooms of one floor don't know one another.
FLOORS = [
    (["kernels_common"], "what kernels are asked to do, and their shared loops: knows nobody"),
    (["kernels_avx2", "kernels_avx512", "kernels_neon"],
     "a kernel sees pointers, strides and counts, so that it can't begin to decide"),
    (["src/base"], "contexts, logs, layouts and the list of kernels serve every operation alike"),
    (["src/geometry"], "taps, strips and packed weights are arithmetic that no choice goes into"),
    (["src/plan"], "chooses among solvers by their hooks, and so names none of them"),
    (["src/compose", "src/solvers/*"],
     "algorithms: one can be added, changed or removed without a look at the others"),
    (["src/train"], "the operations of a layer in training, joined from what stands below"),
    (["src/checkpoint"], "files are a way in and out that no computation needs"),
    (["src/library"], "the roof: the one place that names every solver"),
    (["tuner"], "measures what the library does; a build without it loses nothing else"),
    (["networks"], "lists of layers that the programs read, not the library"),
    (["command", "bench"], "programs are users of the public headers, like any other"),
]
# These see of the library what is installed, and beside that these rooms.
PUBLIC_ONLY = {"networks": [], "command": ["networks"], "bench": ["networks"]}
# Of kernels_common, all but kernels see the contract alone.
CONTRACT = re.compile(r"(kernel|contract_\w+)\.h$")
# What a lower floor calls on a higher one, and why that is no knowledge of it.
UPWARD = {
    ("src/library", "dc_tuner_attach"):
        "library.h declares it, and a build without the tuner has one that does nothing",
}
# Made by the build, and where.
GENERATED = {"kernel_rows.h": "src/base", "help_texts.h": "bench"}
# What is looked at: #include lines of any form, and the names of the library and its kernels.
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+([<"])([^">]+)[">]', re.M)
SYMBOL = re.compile(r"(dc|dck|doconv)_\w+$")
SUFFIXES = {".c", ".h", ".cpp", ".in"}


def rank_of(room):
    """The floor of a room, from 0 on."""
    for rank, (rooms, _) in enumerate(FLOORS):
        if room in rooms or any(r.endswith("/*") and room.startswith(r[:-1]) for r in rooms):
            return rank
    return None


def room_of(path):
    """The room of a file, whose path is relative to the root: src/solvers/NAME, or a folder."""
    parts = path.parts
    if parts[0] != "src":
        return parts[0]
    if len(parts) == 2:
        return "src/" + pathlib.Path(parts[1]).stem
    if parts[1] == "solvers":
        return "src/solvers/" + pathlib.Path(parts[2]).stem
    return "/".join(parts[:2])


def may_use(user, used):
    """May a room use another?"""
    if user == used:
        return True
    if user in PUBLIC_ONLY:
        return used in PUBLIC_ONLY[user]
    return rank_of(used) < rank_of(user)


def sources_of(root):
    """Each file that the floors hold, with its room."""
    tops = {rooms.split("/")[0] for floor, _ in FLOORS for rooms in floor}
    found = {}
    for top in sorted(tops):
        for path in sorted((root / top).rglob("*")):
            relative = path.relative_to(root)
            if path.suffix in SUFFIXES and path.name != "meson.build":
                found[relative] = room_of(relative)
    return found


def resolve(root, file, name):
    """The file that an #include "name" means, relative to the root; None: not of this tree."""
    own = file.parent / name
    folders = [own, pathlib.Path("src", name), pathlib.Path("kernels_common", name),
               pathlib.Path("networks", name), pathlib.Path("bench", name)]
    for path in folders:
        if (root / path).is_file():
            return pathlib.Path(os.path.normpath(path))
    if name in GENERATED:
        return pathlib.Path(GENERATED[name], name)
    return None


def check_include(root, file, room, quote, name):
    """What is wrong with an #include of a file; None: nothing."""
    if quote == "<":
        if name.startswith("doconv/") and room.startswith("kernels_"):
            return "kernels see the headers of kernels_common alone"
        return None
    target = resolve(root, file, name)
    if target is None:
        return "no header of this tree"
    if not may_use(room, room_of(target)):
        return f"{room_of(target)} is not on a lower floor"
    if target.parts[0] == "kernels_common":
        if not room.startswith("kernels_") and not CONTRACT.search(target.name):
            return "only kernels share their loops"
    elif room.startswith("src/") and target != pathlib.Path("src", name) and name not in GENERATED:
        return "write it from src"
    return None


def check_includes(root, sources):
    """The violations by #include, in words."""
    wrong = []
    for file, room in sources.items():
        if rank_of(room) is None:
            wrong.append(f"{file}: {room} has no floor")
            continue
        for quote, name in INCLUDE.findall((root / file).read_text()):
            reason = check_include(root, file, room, quote, name)
            if reason is not None:
                wrong.append(f"{file}: includes {name}: {reason}")
    return wrong


def objects_of(build, sources):
    """The objects in the build directory, with the source of each. An object is named after its
    source's path from the folder of its target, with _ for /."""
    names = {}
    for file in sources:
        for folder in file.parents:
            key = (str(folder), str(file.relative_to(folder)).replace("/", "_"))
            names[key] = file
    found = {}
    for path in sorted(build.rglob("*.p/*.o")):
        folder = path.parent.parent.relative_to(build)
        source = names.get((str(folder), path.stem))
        if source is not None:
            found[path] = source
    return found


def symbols_of(nm, objects):
    """Of each object, the symbols that it defines and those that it leaves undefined."""
    output = subprocess.run([nm, "-A", "-P", *map(str, objects)], check=True, text=True,
                            stdout=subprocess.PIPE).stdout
    symbols = {path: (set(), set()) for path in objects}
    for line in output.splitlines():
        place, name, kind = re.match(r"(.*): (\S+) (\S)", line).groups()
        if SYMBOL.match(name) and (kind.isupper() or kind in "vw"):
            symbols[pathlib.Path(place)][kind in "Uvw"].add(name)
    return symbols


def check_symbols(build, nm, sources):
    """The violations by symbol, in words."""
    objects = objects_of(build, sources)
    missing = {room for file, room in sources.items() if file.suffix == ".c"} - {
        sources[file] for file in objects.values()}
    wrong = [f"{room}: no object of it is built" for room in sorted(missing)
             if room.startswith("src/")]
    symbols = symbols_of(nm, objects)
    homes = {}
    for path, (defined, _) in symbols.items():
        for name in defined:
            homes.setdefault(name, set()).add(sources[objects[path]])
    for path, (_, undefined) in symbols.items():
        room = sources[objects[path]]
        for name in sorted(undefined):
            rooms = homes.get(name, set())
            public = room in PUBLIC_ONLY and name.startswith("doconv_")
            if not public and (room, name) not in UPWARD and not any(
                    may_use(room, home) for home in rooms):
                where = ", ".join(sorted(rooms)) or "no room"
                wrong.append(f"{objects[path]}: uses {name} of {where}: not on a lower floor")
    return wrong, len(objects)


def main():
    root, build, nm = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    sources = sources_of(root)
    wrong = check_includes(root, sources)
    wrong_symbols, objects = check_symbols(build, nm, sources)
    for text in wrong + wrong_symbols:
        print(text)
    print(f"{len(sources)} files, {objects} objects, {len(FLOORS)} floors:",
          f"{len(wrong) + len(wrong_symbols)} violations")
    return 1 if wrong or wrong_symbols else 0


if __name__ == "__main__":
    sys.exit(main())
