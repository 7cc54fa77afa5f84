#!/bin/sh
# Looks in the machine code of products of warpgroups for a left factor in registers that a loop needs again, and yet puts something else
# into: ptxas 13.0 made such code of the backward pass of attention (attention_backward_warpgroup.cu), whose results were wrong.
# usage: check-registers.sh CUOBJDUMP OBJECT…
set -u
cuobjdump=$1
shift
for object; do
  "$cuobjdump" -sass -arch sm_90a "$object" || echo "no code of $object"
done | awk '
function hex(s,   i, v) { # of "1a0"
  v = 0
  for (i = 1; i <= length(s); i++) v = v * 16 + index("0123456789abcdef", substr(s, i, 1)) - 1
  return v
}
# factor is the first register of the left factor of line i, or −1.
function factor(i) { return text[i] ~ /HGMMA[^ ]* R[0-9]+, R[0-9]+, gdesc/ ? first(substr(text[i], index(text[i], ",") + 1)) : -1 }
function first(s) { return match(s, /R[0-9]+/) ? substr(s, RSTART + 1, RLENGTH - 1) + 0 : -1 }
# look goes through the loop of lines from..to: a register of a factor is used before it is written, and written nonetheless.
function look(from, to,   i, r, n, used, wrote, op, words) {
  split("", used); split("", wrote)
  for (i = from; i <= to; i++) {
    r = factor(i)
    if (r >= 0) {
      for (n = r; n < r + 4; n++) if (!(n in used) && !(n in wrote)) used[n] = i
      products++
      continue
    }
    split(text[i], words, " ")
    op = words[1] ~ /^@/ ? 2 : 1
    if (words[op] ~ /^HGMMA/ || words[op + 1] !~ /^R[0-9]+/) continue
    r = first(words[op + 1])
    for (n = r; n < r + (words[op] ~ /128|M88\.4/ ? 4 : words[op] ~ /64|WIDE|CS2R/ ? 2 : 1); n++) {
      if (n in used && !(n in told)) {
        printf "%s: R%d is a left factor in a loop, line \"%s\", and lost in it to \"%s\"\n", name, n, text[used[n]], text[i]
        told[n]; bad++
      }
      wrote[n]
    }
  }
}
function flush(   i, j, to) {
  split("", told)
  for (i = 1; i <= lines; i++)
    if (text[i] ~ /BRA .*0x[0-9a-f]+/) {
      to = text[i]; sub(/.*0x/, "", to); sub(/[^0-9a-f].*/, "", to); to = hex(to)
      if (to >= at[i]) continue
      for (j = i; j > 1 && at[j] > to; j--);
      look(j, i)
    }
  lines = 0
}
/^no code/ { print; bad++ }
/Function :/ { flush(); name = $3 }
/^ +\/\*[0-9a-f]+\*\/ +[@A-Z]/ {
  line = $0; sub(/^ +\/\*/, "", line); address = line; sub(/\*.*/, "", address)
  sub(/^[0-9a-f]+\*\/ +/, "", line); sub(/ *;.*/, "", line)
  lines++; at[lines] = hex(address); text[lines] = line
}
END {
  flush()
  printf "%d products of warpgroups with a left factor in registers in loops, %d registers lost\n", products, bad
  exit bad > 0 || products == 0
}'
