#!/bin/sh
# Runs one phase quietly: one line on success, the end of its log on failure. Usage: scripts/phase.sh NAME COMMAND...
set -u
name=$1
shift
log=build/log/$name.log
mkdir -p build/log
started=$(date +%s)
if "$@" >"$log" 2>&1 </dev/null; then
    printf '%-8s ok     %4ss  %s\n' "$name" "$(($(date +%s) - started))" "$(tail -n 1 "$log" | cut -c 1-100)"
else
    code=$?
    tail -n "${TAIL:-60}" "$log" >&2
    printf '%-8s FAILED %4ss  exit code %s, whole log: %s\n' "$name" "$(($(date +%s) - started))" "$code" "$log" >&2
    exit "$code"
fi
