#!/bin/sh
# Runs every fuzz target of the module for the given time each. usage: fuzz.sh TIME
set -eu
time=$1
n=0
for pkg in $(go list ./...); do
  for target in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
    echo "fuzz $pkg $target"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 5x "$pkg" | tail -n 1
    n=$((n + 1))
  done
done
echo "$n fuzz targets, $time each, no failure"
