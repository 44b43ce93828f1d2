#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tries mutate.py on a small project: test_mutate.py

A change that its test sees is caught, an endless loop is, and one that no test looks at lives;
what the compiler makes the same of is none; the project's own files stay as they were.
"""
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import mutate # pylint: disable=wrong-import-position

SOURCE = """/* a < b in a comment */
int sum(const int *values, int count);
int unseen(int a, int b);

int sum(const int *values, int count)
{
    int result = 0;
    for (int i = 0; i < count; i++) {
        result += values[i];
    }
    return result;
}

int unseen(int a, int b)
{
    if (a < b) {
        return a;
    }
    return 0 * b;
}
"""
TEST = """int sum(const int *values, int count);

int main(void)
{
    const int values[] = {3, 4, 5};
    return sum(values, 3) != 12;
}
"""
FILES = {"meson.build": "project('small', 'c')\nsubdir('tests')\n",
         "tests/meson.build": "executable('test_sum', '../sum.c', 'test_sum.c')\n",
         "tests/test_sum.c": TEST, "sum.c": SOURCE}


def check(what, holds):
    """Ends the test if something doesn't hold."""
    if not holds:
        sys.exit(f"FAILED: {what}")


def main():
    """The test."""
    kinds = {change[3] for change in mutate.changes_of(SOURCE)}
    check("each kind is drawn",
          {"comparison", "operator", "constant", "condition", "return", "statement"} <= kinds)
    check("only CPU time is counted", mutate.run_limited(["sleep", "1.2"], 0.5) == 0)
    first = SOURCE.index("\n")
    check("comments are left alone", all(c[0] > first for c in mutate.changes_of(SOURCE)))
    with tempfile.TemporaryDirectory() as temporary:
        root, work = pathlib.Path(temporary, "root"), pathlib.Path(temporary, "work")
        for name, text in FILES.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        run = mutate.Run(root, work, ["-Doptimization=1"], {"sum.c": ["test_sum"]})
        run.prepare(["sum.c"])
        copy = run.copies[0]

        def outcome(before, after):
            start = SOURCE.index(before)
            change = mutate.Change("sum.c", SOURCE, (start, start + len(before), after, "test"))
            return copy.try_change(change, ["test_sum"], {"test_sum": 2.0})
        check("a change that the test sees is caught",
              outcome("result += values", "result -= values") == "test_sum")
        check("an endless loop is caught", outcome("i < count; i++", "i < count; i += 0") ==
              "test_sum")
        check("a change that no test sees lives", outcome("a < b) {", "a > b) {") == "")
        check("a change of nothing is none", outcome("0 * b", "0 * a") is None)
        check("what can't be compiled is none",
              outcome("return result;", "return results;") is None)
        run.run(["sum.c"], 6, 1)
        check("six changes are tried", run.caught + len(run.survivors) == 6)
        check("some are caught and some live", run.caught > 0 and run.survivors)
        check("survivors are in what no test calls",
              all(str(s).startswith("sum.c:") and s.line > 12 for s in run.survivors))
        again = mutate.Run(root, work, ["-Doptimization=1"], {"sum.c": ["test_sum"]})
        again.prepare(["sum.c"])
        again.run(["sum.c"], 6, 1)
        check("the same seed draws the same",
              [str(s) for s in again.survivors] == [str(s) for s in run.survivors])
        check("the tree is as it was",
              all((root / name).read_text(encoding="utf-8") == text for name, text in FILES.items())
              and len(list(root.rglob("*"))) == len(FILES) + 1)


if __name__ == "__main__":
    main()
