#!/bin/sh
# Writes assembly with one trampoline for each function of the CUDA driver: `cuMemAlloc_v2: jump to where its entry of
# surgeon_driver_table points`. driver.c fills the table. So nothing is linked with libcuda, and the program starts on
# machines that have no driver.
# usage: trampolines.sh CC CFLAGS… >trampolines.S
set -eu
names=$(printf '#include <cuda.h>\n' | "$@" -E -xc - | grep -oE '\bcu[A-Z][A-Za-z0-9]*(_v[0-9]+)?(_ptsz)? *\(' | tr -d ' (' | sort -u)
cat <<'S'
#if defined(__x86_64__)
#define TRAMPOLINE(name, i) .globl name; .type name, @function; name: jmp *(surgeon_driver_table + 8 * i)(%rip)
#elif defined(__aarch64__)
#define TRAMPOLINE(name, i) .globl name; .type name, %function; name: adrp x16, surgeon_driver_table + 8 * i; ldr x16, [x16, #:lo12:(surgeon_driver_table + 8 * i)]; br x16
#else
#error "trampolines are written for x86-64 and arm64"
#endif
.text
S
i=0
for name in $names; do
  echo "TRAMPOLINE($name, $i)"
  i=$((i + 1))
done
cat <<S
.data
.globl surgeon_driver_table
.balign 8
surgeon_driver_table: .zero $((8 * i))
.globl surgeon_driver_names
.balign 8
surgeon_driver_names:
S
i=0
for name in $names; do
  echo ".quad name_$i"
  i=$((i + 1))
done
echo ".quad 0"
echo ".section .rodata"
i=0
for name in $names; do
  echo "name_$i: .asciz \"$name\""
  i=$((i + 1))
done
echo '.section .note.GNU-stack,"",%progbits'
