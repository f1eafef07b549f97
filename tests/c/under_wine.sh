#!/bin/sh
# under_wine.sh PROGRAM - run it under wine, with lines that end as ours do.
text=$(timeout 120 "${WINE:-wine}" "$@" </dev/null 2>/dev/null)
rc=$?
printf '%s\n' "$text" | tr -d '\r'
exit $rc
