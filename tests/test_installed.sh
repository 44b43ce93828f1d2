#!/bin/sh
# SPDX-License-Identifier: MIT
# The installed copy serves applications: test_installed.sh MESON BUILD_DIR SOURCE_DIR PREFIX LIBDIR
# Installs the build below a temporary root, builds tests/installed against it with pkg-config and
# CMake, shared and static, and runs what it built; runs the installed command; builds a table of
# choices that it wrote; configures a Meson project that has the source tree as its subproject. CC:
# the compiler.
set -u

if [ $# -ne 5 ]; then
    echo "usage: test_installed.sh MESON BUILD_DIR SOURCE_DIR PREFIX LIBDIR" >&2
    exit 2
fi
meson=$1
build=$2
source=$3
prefix=$4
libdir=$5
consumer=$source/tests/installed
: "${CC:=cc}"
export CC

work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 2' HUP INT TERM
unset DESTDIR LD_LIBRARY_PATH DOCONV_MAX_ISA DOCONV_TUNE DOCONV_VERBOSE CFLAGS LDFLAGS
DOCONV_CACHE=$work/cache
OMP_NUM_THREADS=1
export DOCONV_CACHE OMP_NUM_THREADS
root=$work/root$prefix
passed=0
failed=0

# NAME COMMAND [ARG ...]: a test. It passes if the command succeeds.
try() {
    name=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name: $*"
        sed 's/^/    /' "$work/log"
    fi
}

skip() {
    echo "skipped: $*"
}

"$meson" install -C "$build" --no-rebuild --quiet --destdir "$work/root" >"$work/log" 2>&1 || {
    cat "$work/log"
    exit 1
}
shared=$(find "$root/$libdir" -name 'libdoconv.so')
static=$(find "$root/$libdir" -name 'libdoconv.a')

# ---- pkg-config ----

# Of the packages of the system only the static library may need one, Jansson.
if command -v pkg-config >/dev/null; then
    pc() { # PKG_CONFIG_LIBDIR OPTION ...
        PKG_CONFIG_LIBDIR=$1
        shift
        PKG_CONFIG_LIBDIR=$PKG_CONFIG_LIBDIR pkg-config --define-variable=prefix="$root" "$@" doconv
    }
    compile() { # NAME PATHS OPTIONS FILTER: FILTER is sed's, on the flags
        flags=$(pc "$2" $3) || return 1
        flags=$(echo "$flags" | sed "$4")
        # shellcheck disable=SC2086
        $CC -std=c11 -Wall -Werror "$consumer/consumer.c" $flags -lm \
            -Wl,-rpath,"$root/$libdir" -o "$work/$1"
    }
    ours=$root/$libdir/pkgconfig
    system=$(pkg-config --variable pc_path pkg-config)
    if [ -n "$shared" ]; then
        try "pkg-config, shared: builds" compile pc_shared "$ours" '--cflags --libs' ''
        try "pkg-config, shared: runs" "$work/pc_shared"
    fi
    if [ -n "$static" ]; then
        try "pkg-config, static: builds" compile pc_static "$ours:$system" \
            '--cflags --libs --static' 's/-ldoconv/-l:libdoconv.a/'
        try "pkg-config, static: runs" "$work/pc_static"
    fi
else
    skip "pkg-config is missing"
fi

# ---- CMake ----

if command -v cmake >/dev/null; then
    try "CMake: configures" cmake -S "$consumer" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$root"
    try "CMake: builds" cmake --build "$work/cmake"
    try "CMake: runs" "$work/cmake/consumer"
    if [ -n "$static" ]; then
        try "CMake, static: runs" "$work/cmake/consumer_static"
    fi
else
    skip "cmake is missing"
fi

# ---- the command, with the library that was installed beside it ----

if [ "$prefix" = /usr ]; then
    skip "below /usr the loader finds the command's library only where it is installed"
else
    for program in "$root"/bin/*; do
        [ -x "$program" ] && try "$(basename "$program"): finds its library" "$program" --help
    done
fi

# ---- a table that the installed command writes and an application compiles in ----

if [ "$prefix" != /usr ] && [ -x "$root/bin/doconv" ] && [ -n "$shared" ]; then
    tune() {
        for problem in mb1ic8ih6oc8kh3ph1 mb1ic16ih9oc8:src=nhwc,dst=nhwc,bias,relu; do
            "$root/bin/doconv" tune $problem --threads=1 --budget=0.02 || return 1
        done
        "$root/bin/doconv" cache list | grep '^2 entries'
    }
    compile_table() { # PROGRAM, then the compiler's words for the table
        program=$1
        shift
        "$@" -Wall -Wextra -pedantic -Werror -I"$root/include" -c "$work/table.c" \
            -o "$work/table.o" || return 1
        $CC -std=c11 -Wall -Werror -I"$root/include" "$consumer/tabled.c" "$work/table.o" \
            "$shared" -Wl,-rpath,"$root/$libdir" -o "$work/$program"
    }
    DOCONV_CACHE=$work/table_cache
    try "table: problems are tuned" tune
    try "table: is written" "$root/bin/doconv" cache to-c "$work/table.c"
    # shellcheck disable=SC2086
    try "table: builds as C" compile_table tabled_c $CC -std=c11
    try "table: chooses" "$work/tabled_c"
    if command -v c++ >/dev/null; then
        try "table: builds as C++" compile_table tabled_cxx c++ -std=c++17 -x c++
        try "table: chooses from C++" "$work/tabled_cxx"
    fi
    if command -v strace >/dev/null && strace -o "$work/trace" true 2>/dev/null; then
        reads_nothing() {
            strace -f -e trace=open,openat -o "$work/trace" "$work/tabled_c" || return 1
            ! grep -F "$DOCONV_CACHE" "$work/trace"
        }
        try "table: nothing of the cache is read" reads_nothing
    fi
else
    skip "the table needs the command and the shared library"
fi

# ---- a Meson project around the source tree ----

mkdir -p "$work/parent/subprojects"
cp "$consumer/meson.build" "$consumer/consumer.c" "$work/parent"
ln -s "$source" "$work/parent/subprojects/doconv"
only_the_library() {
    "$meson" introspect "$work/parent_build" --installed >"$work/plan" || return 1
    tr ',' '\n' <"$work/plan"
    grep -q 'bin/consumer' "$work/plan" && grep -q 'libdoconv' "$work/plan" &&
        ! grep -q -E 'bin/doconv|man1|share' "$work/plan"
}
try "Meson subproject: configures" "$meson" setup --force-fallback-for=doconv \
    "$work/parent_build" "$work/parent"
try "Meson subproject: installs the library alone" only_the_library

echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
