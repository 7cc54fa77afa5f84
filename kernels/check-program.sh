#!/bin/sh
# Looks at a built surgeon-cuda without running it: which libraries it needs, and for which GPUs it has code.
# usage: check-program.sh PROGRAM CUOBJDUMP
set -u
program=$1 cuobjdump=$2 failed=0
must() { # must WHAT COMMAND...
  what=$1; shift
  if "$@"; then echo "$program: $what"; else echo "$program: NOT $what" >&2; failed=1; fi
}
needs() { readelf -d "$program" | grep NEEDED | grep -q "\[$1"; }
lacks() { ! needs "$1"; }
lazy() { ! readelf -d "$program" | grep -qE 'BIND_NOW|Flags:.*NOW'; }
code() { "$cuobjdump" --list-elf "$program" | grep -q "\.$1\.cubin"; }
ptx() { "$cuobjdump" --list-ptx "$program" | grep -q "\.$1\.ptx"; }
found() { ! ldd "$program" | grep -F 'not found'; }
must "needs cuBLAS" needs libcublas.so.13
must "needs cuBLASLt" needs libcublasLt.so.13
must "needs cuSOLVER" needs libcusolver.so.12
must "does not need the driver to start" lacks libcuda.so
must "does not need NVML to start" lacks libnvidia-ml.so
must "binds functions when they are called" lazy
must "finds the libraries it needs" found
must "has machine code for sm_80" code sm_80
must "has machine code for sm_90" code sm_90
must "has machine code for what sm_90 alone has" code sm_90a
must "has PTX for what comes later" ptx sm_90
exit $failed
