package main

import (
	"math"
	"regexp"
	"strconv"
	"strings"
)

// unitBytes are the units of an amount of memory: powers of 1000 and, with an i, of 1024.
var unitBytes = map[string]float64{"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}

var amount = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([a-z]*)$`)

// parseBytes is the number of bytes that a flag's value such as 80GiB, 40GB, 1.5 GiB or 2147483648 stands for, rounded down,
// and 0 for an empty one. Units are read in any case.
func parseBytes(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	m := amount.FindStringSubmatch(strings.ToLower(s))
	if m == nil {
		return 0, refuse("%s is %q; a number of bytes with its unit is expected, for example 40GiB or 40GB", flag, s)
	}
	unit, known := unitBytes[m[2]]
	if !known {
		return 0, refuse("%s is %q; the unit %s is none of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB", flag, s, m[2])
	}
	n, _ := strconv.ParseFloat(m[1], 64) // digits always parse, to +Inf at worst
	switch n *= unit; {
	case n < 1:
		return 0, refuse("%s is %q; at least a byte is needed, and to use all there is the flag is left out", flag, s)
	case n >= math.MaxInt64:
		return 0, refuse("%s is %q; that is more than any memory", flag, s)
	}
	return int64(n), nil
}
