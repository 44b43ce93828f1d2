#!/bin/sh
# SPDX-License-Identifier: MIT
# The shared library exports what the public headers declare, and nothing else: check_exports.sh LIBRARY INCLUDE_DIR NM
if [ $# -ne 3 ]; then
    echo "usage: check_exports.sh LIBRARY INCLUDE_DIR NM" >&2
    exit 2
fi
library=$1
include=$2
nm=$3
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
# Symbols that every linker of its time adds to every library are not ours.
"$nm" -D --defined-only "$library" | awk '{ print $NF }' | grep -v -E '^(_init|_fini|_end|_edata|_etext|__bss_.*)$' | sort >"$work/exported" || exit 1
sed -n '/^DOCONV_API/ s/^.*[ *]\(doconv_[a-z0-9_]*\)(.*$/\1/p' "$include"/doconv/*.h | sort >"$work/declared"
if [ ! -s "$work/exported" ] || [ ! -s "$work/declared" ]; then
    echo "no symbols found in $library or $include/doconv"
    exit 1
fi
if ! diff "$work/declared" "$work/exported" >"$work/difference"; then
    echo "declared (<) and exported (>) functions differ:"
    cat "$work/difference"
    exit 1
fi
echo "$(wc -l <"$work/exported") functions exported, all declared"
