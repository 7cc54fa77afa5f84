#!/bin/sh
# Plants faults in copies of the kernels, one at a time, and sees that the tests on the emulated device catch each of them.
# faults.txt has a line for each: kernel, name, a sed script that makes the fault, the tests that should fail.
# usage: faults.sh BUILD TEST   with BUILD the directory of the good emulated library, and TEST a command that links with
# the library in $SURGEON_LIBRARY and runs the tests named in $RUN
set -u
build=$1
shift
here=$(dirname "$0")/..
missed=0 planted=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$here" "$work/kernels"
while IFS='	' read -r kernel name script tests; do
  case $kernel in '' | '#'*) continue ;; esac
  planted=$((planted + 1))
  sed -E "$script" "$here/$kernel.cu" >"$work/kernels/$kernel.cu"
  if cmp -s "$here/$kernel.cu" "$work/kernels/$kernel.cu"; then
    echo "NOT PLANTED  $kernel: $name: the sed script changes nothing"
    missed=$((missed + 1))
    continue
  fi
  rm -rf "$work/lib" && mkdir "$work/lib" && cp "$build"/*.a "$build"/"$kernel".o "$work/lib"
  if ! $EMU_COMPILE -x c++ -c "$work/kernels/$kernel.cu" -o "$work/lib/$kernel.o" 2>"$work/log"; then
    echo "NOT BUILT    $kernel: $name"
    head -5 "$work/log"
    missed=$((missed + 1))
    continue
  fi
  ar r "$work/lib/libsurgeon_kernels.a" "$work/lib/$kernel.o" 2>/dev/null
  if SURGEON_LIBRARY=$work/lib RUN=$tests sh -c "$*" >"$work/log" 2>&1; then
    echo "MISSED       $kernel: $name"
    missed=$((missed + 1))
  elif grep -qE 'FAIL|ERROR: AddressSanitizer|emulated device:' "$work/log"; then
    echo "caught       $kernel: $name: $(grep -oE 'ERROR: AddressSanitizer: [a-z-]+|emulated device: [^,]*|device_test.go.*|[a-z]+.go:[0-9]+: .*' "$work/log" | head -1 | cut -c1-140)"
  else
    echo "NOT RUN      $kernel: $name"
    tail -5 "$work/log"
    missed=$((missed + 1))
  fi
  cp "$here/$kernel.cu" "$work/kernels/$kernel.cu"
done <"$here/emu/faults.txt"
echo "$((planted - missed)) passed, $missed failed"
[ "$missed" -eq 0 ] && [ "$planted" -gt 0 ]
