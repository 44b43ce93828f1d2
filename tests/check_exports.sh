#!/bin/sh
# SPDX-License-Identifier: MIT
# The shared library exports what the public headers declare, and nothing else; what older headers
# declare is still there:
# check_exports.sh LIBRARY INCLUDE_DIR NM OLD_INCLUDE_DIR
if [ $# -ne 4 ]; then
    echo "usage: check_exports.sh LIBRARY INCLUDE_DIR NM OLD_INCLUDE_DIR" >&2
    exit 2
fi
library=$1
include=$2
nm=$3
old=$4
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
# Symbols that every linker of its time adds to every library are not ours.
linker='^(_init|_fini|_end|_edata|_etext|__bss_.*)$'
"$nm" -D --defined-only "$library" | awk '{ print $NF }' | grep -v -E "$linker" |
    sort >"$work/exported" || exit 1
declared() {
    sed -n '/^DOCONV_API/ s/^.*[ *]\(doconv_[a-z0-9_]*\)(.*$/\1/p' "$1"/doconv/*.h | sort
}
declared "$include" >"$work/declared"
declared "$old" >"$work/old"
if [ ! -s "$work/exported" ] || [ ! -s "$work/declared" ] || [ ! -s "$work/old" ]; then
    echo "no symbols found in $library, $include/doconv or $old/doconv"
    exit 1
fi
if ! diff "$work/declared" "$work/exported" >"$work/difference"; then
    echo "declared (<) and exported (>) functions differ:"
    cat "$work/difference"
    exit 1
fi
comm -23 "$work/old" "$work/exported" >"$work/gone"
if [ -s "$work/gone" ]; then
    echo "functions of older headers that are gone:"
    cat "$work/gone"
    exit 1
fi
echo "$(wc -l <"$work/exported") functions exported, all declared"
