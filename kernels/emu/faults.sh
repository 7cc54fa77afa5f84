#!/bin/sh
# Plants faults in copies of the kernels, one at a time on each core, and sees that the tests on the emulated device catch each
# of them. LIST (faults.txt, races.txt) has a line for each: kernel (or a .cpp beside them), name, a sed script that makes the fault, the tests
# that should fail.
# usage: faults.sh TESTS LIST [WORDS]      TESTS is a test program of package cgo that is linked with libsurgeon_kernels.so; with WORDS it has to
# say those to have caught a fault
# Environment: EMU_COMPILE compiles a kernel, EMU_SHARED makes a shared library of EMU_OBJECTS; kernels.mk sets them
set -u
root=$PWD tests=$PWD/$1 list=$PWD/$2 words=${3:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
workers=$(nproc)

# plant I: the next fault that nobody has taken, until there is none, in a directory of its own. Its last word is in verdicts.
plant() {
  here=$work/$1
  mkdir "$here" && cp -r kernels "$here/kernels"
  line=0
  while IFS='	' read -r kernel name script expected; do
    case $kernel in '' | '#'*) continue ;; esac
    line=$((line + 1))
    mkdir "$work/taken$line" 2>/dev/null || continue
    from=$(date +%s)
    good=kernels/$kernel.cu
    [ -f "$good" ] || good=kernels/$kernel.cpp
    bad=$here/$good
    others=$(for o in $EMU_OBJECTS; do [ "${o##*/}" = "$kernel.o" ] || echo "$o"; done)
    text=
    # shellcheck disable=SC2086 # commands and lists of several words
    if ! sed -E "$script" "$good" >"$bad" || cmp -s "$good" "$bad"; then
      verdict="NOT PLANTED" text="the sed script changes nothing, or is none"
    elif ! { $EMU_COMPILE -x c++ -c "$bad" -o "$here/$kernel.o" && $EMU_SHARED "$here/$kernel.o" $others -lboost_context -o "$here/libsurgeon_kernels.so"; } 2>"$here/log"; then
      verdict="NOT BUILT  " text=$(head -1 "$here/log")
    elif (cd "$root/cgo" && LD_LIBRARY_PATH=$here "$tests" -test.timeout 5m -test.failfast -test.run "$expected") >"$here/log" 2>&1; then
      verdict="MISSED     "
    elif ! grep -qF "$words" "$here/log"; then
      verdict="MISSED     " text="failed without these words: $words"
    else
      verdict="caught     " text=$(grep -oE 'ERROR: AddressSanitizer: [a-z-]+|emulated device: [^,]*|[a-z]+\.go:[0-9]+: .*|runtime error: .*' "$here/log" | grep -E 'ERROR|emulated|want|at most|differs|differ$|changed|written|runtime error' | head -1 | cut -c1-140)
    fi
    echo "$verdict  $(($(date +%s) - from)) s  $kernel: $name${text:+: $text}" | tee -a "$here/verdicts"
    cp "$good" "$bad"
  done <"$list"
}

worker=0
while [ "$worker" -lt "$workers" ]; do
  plant "$worker" &
  worker=$((worker + 1))
done
wait
planted=$(grep -cE '^[a-z]' "$list")
caught=$(cat "$work"/*/verdicts | grep -c '^caught')
echo "$caught passed, $((planted - caught)) failed"
[ "$caught" -eq "$planted" ] && [ "$planted" -gt 0 ]
