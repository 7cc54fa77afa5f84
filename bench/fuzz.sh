#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each. usage: fuzz.sh TIME
set -euo pipefail
time=$1
n=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# fuzz PACKAGE TARGET. Before Go 1.27 the end of -fuzztime can be taken for a failure (go.dev/issue/75804): the coordinator
# says "context deadline exceeded" and has written no input. Only exactly that is run again, and three times at most.
fuzz() {
  local attempt
  for attempt in 1 2 3; do
    # A failing input is minimised a few times only: that must not take longer than the search.
    go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 5x "$1" >"$log" 2>&1 && return
    grep -q '^ *context deadline exceeded$' "$log" && ! grep -q 'Failing input written' "$log" || break
    echo "  ended as in go.dev/issue/75804, attempt $attempt: no failing input; run again"
  done
  cat "$log"
  return 1
}

for pkg in $(go list ./...); do
  go test -list '^Fuzz' "$pkg" >"$log" || { cat "$log"; exit 1; }
  for target in $(sed -n '/^Fuzz/p' "$log"); do
    echo "fuzz $pkg $target"
    fuzz "$pkg" "$target" || exit 1
    n=$((n + 1))
  done
done
[ "$n" -gt 0 ]
echo "$n fuzz targets, $time each, no failure"
