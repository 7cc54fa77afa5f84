#!/usr/bin/env bash
# Runs two halves of the tests at once, for kernels on fibers keep one core busy each. What the first says comes at the end, all of it where it failed.
# usage: halves.sh LOG COMMAND COMMAND      the output of the first command goes to LOG
set -u
bash -c "$2" >"$1" 2>&1 &
half=$!
kernels/few.sh bash -c "$3"
rest=$?
wait $half
half=$?
if [ $half -eq 0 ]; then kernels/few.sh cat "$1"; else cat "$1"; fi
[ $half -eq 0 ] && [ $rest -eq 0 ]
