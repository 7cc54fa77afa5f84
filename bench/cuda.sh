#!/bin/sh
# Measures a device, usually a GPU: every operation of it, and one shot at the shapes of each model, in the Go benchmark format
# (for benchstat).
# usage: cuda.sh SURGEON
# Writes results/DEVICE.txt beside this script; the name is the device's, with dashes for blanks. What fails, or has no room on
# the device, stands in the file as a comment, the rest is measured, and the script ends with 1.
# Two such files are compared with benchstat -ignore commit OLD NEW.
# Environment: DEVICE (cuda:0) SHAPES (names; all) SEQUENCES (of a shot; 8) OPS and SHOT (more options for either)
set -eu
surgeon=$1
device=${DEVICE:-cuda:0} sequences=${SEQUENCES:-8}
results=$(dirname "$0")/results
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=
measure() {
  echo "surgeon bench $*" >&2
  echo "# surgeon bench $*" >>"$tmp/all"
  if ! "$surgeon" bench "$@" --device "$device" --go >"$tmp/out" 2>"$tmp/err"; then
    failed="$failed\n  $*"
    sed 's/^/# /' "$tmp/err" | tee -a "$tmp/all" >&2
  fi
  tee -a "$tmp/all" <"$tmp/out"
}
# shellcheck disable=SC2086 # OPS and SHOT are several words
measure ops ${OPS:-}
for shape in ${SHAPES:-smollm2-135m opt-125m opt-6.7b llama-2-7b llama-3-8b}; do
  # shellcheck disable=SC2086
  measure shot --shape "$shape" --sequences "$sequences" ${SHOT:-}
done
name=$(sed -n 's/^device: *\(cuda:[0-9]* \)\{0,1\}//p' "$tmp/all" | head -n 1 | sed 's/ /-/g; s/[^A-Za-z0-9._-]//g')
[ -n "$name" ] || { echo "nothing was measured" >&2; exit 1; }
mkdir -p "$results"
cp "$tmp/all" "$results/$name.txt"
echo "written to $results/$name.txt" >&2
[ -z "$failed" ] || { printf "not measured:$failed\n" >&2; exit 1; }
