#!/bin/sh
# SPDX-License-Identifier: MIT
# Another C library, musl, builds the library, as a Meson subproject, and runs a program of it, with
# the tuner and without: test_musl.sh MESON SOURCE_DIR
set -eu

if [ $# -ne 2 ]; then
    echo "usage: test_musl.sh MESON SOURCE_DIR" >&2
    exit 2
fi
if ! command -v musl-gcc >/dev/null; then
    echo "skipped: musl-gcc is missing"
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 2' HUP INT TERM
unset DESTDIR DOCONV_MAX_ISA DOCONV_TUNE DOCONV_VERBOSE CFLAGS LDFLAGS
mkdir -p "$work/subprojects"
cp "$2/tests/installed/meson.build" "$2/tests/installed/consumer.c" "$work"
ln -s "$2" "$work/subprojects/doconv"
# Jansson is that of the system's C library. Only the kernels are
# optimized: what is asked is whether it builds.
CC=musl-gcc "$1" setup "$work/build" "$work" --force-fallback-for=doconv \
    -Dbuildtype=plain -Dwerror=true \
    -Ddoconv:default_library=static -Ddoconv:openmp=disabled -Ddoconv:safetensors=disabled
ninja -C "$work/build" --quiet
DOCONV_CACHE=$work/cache "$work/build/consumer"
"$1" configure "$work/build" -Ddoconv:tuner=false
ninja -C "$work/build" --quiet
DOCONV_CACHE=$work/none "$work/build/consumer"
if [ -e "$work/none" ]; then
    echo "FAILED: a library without the tuner has a cache"
    exit 1
fi
