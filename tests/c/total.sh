#!/bin/sh
# total.sh RUNNER PROGRAM... - run all programs, then add up what they count.
runner=$1
shift
total=0
bad=0
for program; do
    text=$($runner "$program" 2>&1) || bad=$((bad + 1))
    printf '%s\n' "$text"
    last=$(printf '%s\n' "$text" | tail -1)
    n=$(printf '%s\n' "$last" | sed -n 's/.* \([0-9]*\) passed$/\1/p')
    [ -n "$n" ] || { echo "$program ended early"; bad=$((bad + 1)); }
    total=$((total + ${n:-0}))
done
if [ "$bad" -gt 0 ]; then
    echo "total: FAILED, $total passed in $# programs"
    exit 1
fi
echo "total: $total passed in $# programs"
