#!/bin/sh
# SPDX-License-Identifier: MIT
# What the tests of the doconv command share; they read this, with their own arguments: DOCONV
# TESTS_DIR [WRAPPER]. DOCONV is the program, TESTS_DIR the source directory of the tests (with
# golden/), WRAPPER what runs a foreign program, with its arguments (default: what Meson names in a
# cross build).
set -u

if [ $# -lt 2 ] || [ $# -gt 3 ]; then
    echo "usage: $(basename "$0") DOCONV TESTS_DIR [WRAPPER]" >&2
    exit 2
fi
doconv=$1
golden=$2/golden
networks=$2/../networks
wrapper=${3:-${MESON_EXE_WRAPPER:-}}
if [ ! -f "$golden/cases.tsv" ]; then
    echo "$(basename "$0"): $golden has no golden cases" >&2
    exit 2
fi
tab=$(printf '\t')

work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 2' HUP INT TERM
# The caller's settings and cache must not change an outcome.
unset DOCONV_MAX_ISA DOCONV_TUNE DOCONV_VERBOSE DOCONV_NETWORKS XDG_CACHE_HOME
DOCONV_CACHE=$work/cache
OMP_NUM_THREADS=1
export DOCONV_CACHE OMP_NUM_THREADS

passed=0
failed=0

pass() {
    passed=$((passed + 1))
}

fail() {
    failed=$((failed + 1))
    echo "FAIL: $*"
    sed 's/^/    /' "$work/out" "$work/err" | head -n 30
}

# run STATUS ARGUMENT...: runs the command and checks its exit status.
run() {
    expected=$1
    shift
    # Unquoted on purpose: the wrapper may have arguments.
    $wrapper "$doconv" "$@" >"$work/out" 2>"$work/err"
    status=$?
    if [ $status -eq "$expected" ]; then
        pass
    else
        fail "doconv $*: exit status $status, expected $expected"
    fi
    last=$*
}

# out TEXT, err TEXT: the last run printed it. no_out TEXT: it didn't.
out() {
    if grep -qF -- "$1" "$work/out"; then
        pass
    else
        fail "doconv $last: standard output lacks: $1"
    fi
}
err() {
    if grep -qF -- "$1" "$work/err"; then
        pass
    else
        fail "doconv $last: standard error lacks: $1"
    fi
}
no_out() {
    if grep -qF -- "$1" "$work/out"; then
        fail "doconv $last: standard output has: $1"
    else
        pass
    fi
}

# usage TEXT ARGUMENT...: bad usage: exit status 2, the text on standard error, nothing on standard
# output.
usage() {
    text=$1
    shift
    run 2 "$@"
    err "$text"
    if [ -s "$work/out" ]; then
        fail "doconv $last: bad usage, but standard output is not empty"
    else
        pass
    fi
}

# The end of a test.
summary() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}

small=mb1ic8ih6oc8kh3ph1
