#!/bin/sh
# SPDX-License-Identifier: MIT
# Every global symbol of the static library has a prefix of the project, so that none is an
# application's: check_archive.sh LIBRARY NM
if [ $# -ne 2 ]; then
    echo "usage: check_archive.sh LIBRARY NM" >&2
    exit 2
fi
globals=$("$2" -g --defined-only "$1" | awk 'NF == 3 { print $3 }' | sort -u) || exit 1
if [ -z "$globals" ]; then
    echo "no symbols found in $1"
    exit 1
fi
foreign=$(printf '%s\n' "$globals" | grep -v -E '^(doconv_|dc_|dck_)')
if [ -n "$foreign" ]; then
    echo "global symbols without the prefix doconv_, dc_ or dck_:"
    echo "$foreign"
    exit 1
fi
echo "$(printf '%s\n' "$globals" | wc -l) global symbols, all with a prefix"
