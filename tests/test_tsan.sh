#!/bin/sh
# SPDX-License-Identifier: MIT
# ThreadSanitizer builds the library and the programs whose threads do all that threads may do, and
# sees nothing that isn't ordered; likewise without the tuner, which is a build of its own, and has
# most of what it needs there: test_tsan.sh MESON SOURCE_DIR. CC: the compiler.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: test_tsan.sh MESON SOURCE_DIR" >&2
    exit 2
fi
: "${CC:=cc}"
export CC
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 2' HUP INT TERM
unset DESTDIR DOCONV_MAX_ISA DOCONV_TUNE DOCONV_VERBOSE CFLAGS LDFLAGS
# A compiler may come without its runtime library, or the runtime not run on a system's kernel.
echo 'int main(void) { return 0; }' >"$work/empty.c"
# shellcheck disable=SC2086 # CC may have options
if ! $CC -fsanitize=thread "$work/empty.c" -o "$work/empty" 2>"$work/log" || ! "$work/empty"; then
    echo "skipped: $CC has no ThreadSanitizer that runs here"
    exit 77
fi
# The threads of OpenMP are no part of the library, and unknown to TSan.
"$1" setup "$work/build" "$2" -Dbuildtype=plain -Doptimization=1 -Db_sanitize=thread \
    -Db_lundef=false -Ddefault_library=static -Dopenmp=disabled -Dsafetensors=disabled \
    -Dbench=disabled >"$work/log" || {
    cat "$work/log"
    exit 1
}
meson=$1
DOCONV_CACHE=$work/cache
export DOCONV_CACHE
failed=0
# run PROGRAM ...: builds and runs programs of the tests.
run() {
    for name; do
        ninja -C "$work/build" --quiet "tests/$name"
        "$work/build/tests/$name" || failed=1
    done
}
run test_runner test_runner_conditions test_threads test_nearest
"$meson" configure "$work/build" -Dtuner=false
run test_api test_plan test_tasks
exit $failed
