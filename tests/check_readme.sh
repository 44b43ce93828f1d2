#!/bin/sh
# SPDX-License-Identifier: MIT
# check_readme.sh README EXAMPLE: the README's C example is the one that the tests compile and run.
set -u
if [ $# -ne 2 ]; then
    echo "usage: check_readme.sh README EXAMPLE" >&2
    exit 2
fi
sed -n '/^```c$/,/^```$/p' "$1" | sed '1d;$d' | diff - "$2" || {
    echo "check_readme.sh: the example in $1 differs from $2"
    exit 1
}
