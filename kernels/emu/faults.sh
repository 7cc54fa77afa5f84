#!/bin/sh
# Plants faults in copies of the kernels, one at a time, and sees that the tests on the emulated device catch each of them.
# faults.txt has a line for each: kernel, name, a sed script that makes the fault, the tests that should fail.
# usage: faults.sh TESTS      a test program of package cgo that is linked with libsurgeon_kernels.so
# Environment: EMU_COMPILE compiles a kernel, EMU_SHARED makes a shared library of EMU_OBJECTS; test-faults in kernels.mk sets them
set -u
root=$PWD tests=$PWD/$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r kernels "$work/kernels"
missed=0 planted=0
verdict() { # verdict caught|… TEXT
  echo "$1  $kernel: $name${2:+: $2}"
  [ "$1" = "caught    " ] || missed=$((missed + 1))
}
while IFS='	' read -r kernel name script expected; do
  case $kernel in '' | '#'*) continue ;; esac
  planted=$((planted + 1))
  good=kernels/$kernel.cu bad=$work/kernels/$kernel.cu
  sed -E "$script" "$good" >"$bad"
  others=$(for o in $EMU_OBJECTS; do [ "$o" = "build/emu/$kernel.o" ] || echo "$o"; done)
  # shellcheck disable=SC2086 # commands and lists of several words
  if cmp -s "$good" "$bad"; then
    verdict "NOT PLANTED" "the sed script changes nothing"
  elif ! { $EMU_COMPILE -x c++ -c "$bad" -o "$work/$kernel.o" && $EMU_SHARED "$work/$kernel.o" $others -lboost_context -o "$work/libsurgeon_kernels.so"; } 2>"$work/log"; then
    verdict "NOT BUILT  " "$(head -1 "$work/log")"
  elif (cd "$root/cgo" && LD_LIBRARY_PATH=$work "$tests" -test.timeout 5m -test.run "$expected") >"$work/log" 2>&1; then
    verdict "MISSED     "
  else
    verdict "caught    " "$(grep -oE 'ERROR: AddressSanitizer: [a-z-]+|emulated device: [^,]*|[a-z]+\.go:[0-9]+: .*|runtime error: .*' "$work/log" | grep -E 'ERROR|emulated|want|at most|differs|changed|written|runtime error' | head -1 | cut -c1-140)"
  fi
  cp "$good" "$bad"
done <kernels/emu/faults.txt
echo "$((planted - missed)) passed, $missed failed"
[ "$missed" -eq 0 ] && [ "$planted" -gt 0 ]
