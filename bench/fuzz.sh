#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each. usage: fuzz.sh TIME
set -euo pipefail
time=$1
n=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for pkg in $(go list ./...); do
  go test -list '^Fuzz' "$pkg" >"$log" || { cat "$log"; exit 1; }
  for target in $(sed -n '/^Fuzz/p' "$log"); do
    echo "fuzz $pkg $target"
    # A failing input is minimised a few times only: that must not take longer than the search.
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 5x "$pkg" >"$log.out" 2>&1 ||
      { cat "$log.out"; rm -f "$log.out"; exit 1; }
    n=$((n + 1))
  done
done
rm -f "$log.out"
[ "$n" -gt 0 ]
echo "$n fuzz targets, $time each, no failure"
