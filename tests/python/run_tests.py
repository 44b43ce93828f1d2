#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs the tests of the Python package and ends with counts as cmocka writes them:
run_tests.py [FILE ...]; all files of this folder if none is given."""
import pathlib
import sys
import unittest

FOLDER = pathlib.Path(__file__).resolve().parent


def main():
    """Exit status: 0 if no test failed."""
    try:
        import numpy  # pylint: disable=unused-import,import-outside-toplevel
    except ImportError as error:
        print(f"[  SKIPPED ] 1 test(s). There is no NumPy: {error}")
        return 77
    names = sys.argv[1:] or sorted(path.name for path in FOLDER.glob("test_*.py"))
    sys.path.insert(0, str(FOLDER))
    suite = unittest.TestSuite()
    for name in names:
        suite.addTests(unittest.defaultTestLoader.loadTestsFromName(pathlib.Path(name).stem))
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    # A test with several failing parts counts once.
    failed = {getattr(test, "test_case", test).id() for test, _ in result.failures + result.errors}
    skipped = len(result.skipped)
    print(f"[  PASSED  ] {result.testsRun - len(failed) - skipped} test(s).")
    if failed:
        print(f"[  FAILED  ] {len(failed)} test(s).")
    if skipped:
        print(f"[  SKIPPED ] {skipped} test(s).")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
