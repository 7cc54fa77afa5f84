#!/usr/bin/env bash
# Runs a verbose test command and leaves out what thousands of passed subtests say.
# usage: few.sh COMMAND…
set -o pipefail
"$@" 2>&1 | grep -vE --line-buffered '^=== |^ +--- PASS'
