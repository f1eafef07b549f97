#!/bin/sh
# total.sh RUNNER PROGRAM... - run all programs, JOBS at a time, then add up
# what they count. Most of them sleep most of the time.
runner=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export runner work
i=0
for program; do
    i=$((i + 1))
    echo "$i $program"
done | xargs -P "${JOBS:-4}" -L 1 sh -c \
    '$runner "$2" >"$work/$1" 2>&1; echo $? >"$work/$1.rc"' sh
total=0
bad=0
i=0
for program; do
    i=$((i + 1))
    cat "$work/$i"
    [ "$(cat "$work/$i.rc")" = 0 ] || bad=$((bad + 1))
    n=$(tail -1 "$work/$i" | sed -n 's/.* \([0-9]*\) passed$/\1/p')
    [ -n "$n" ] || { echo "$program ended early, status $(cat "$work/$i.rc")"; bad=$((bad + 1)); }
    total=$((total + ${n:-0}))
done
if [ "$bad" -gt 0 ]; then
    echo "total: FAILED, $total passed in $# programs"
    exit 1
fi
echo "total: $total passed in $# programs"
