package main

import (
	"errors"
	"strings"
	"testing"

	"surgeon/engine"
)

// What would be caught: a unit that is taken for another, a wrong amount that passes, a refusal that does not quote it.
func TestParseBytes(t *testing.T) {
	for s, want := range map[string]int64{
		"": 0, "1": 1, "2147483648": 1 << 31, "80GiB": 80 << 30, "40GB": 40e9, "1.5gib": 3 << 29, "0.5 TiB": 1 << 39, "512mb": 512e6, "3KiB": 3072, "7kB": 7000, "9B": 9, "2TB": 2e12, "64MiB": 64 << 20,
	} {
		if got, err := parseBytes("--gpu-memory", s); got != want || err != nil {
			t.Errorf("%q is %d bytes, %v; want %d", s, got, err, want)
		}
	}
	for s, want := range map[string]string{
		"GiB": "40GiB", "-1GB": "40GiB", "1e9": "40GiB", "40 %": "40GiB", "4,5GB": "40GiB", " 1GB": "40GiB", "NaN": "40GiB", ".5GB": "40GiB",
		"40G": "unit g is none of", "40GBit": "unit gbit", "0": "at least a byte", "0.1B": "at least a byte", "99999999TB": "more than any memory",
		"1" + strings.Repeat("0", 400): "more than any memory",
	} {
		got, err := parseBytes("--gpu-memory", s)
		var request *engine.RequestError
		if !errors.As(err, &request) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--gpu-memory is \""+s) {
			t.Errorf("%q gives %d and %v, want an error with %q", s, got, err, want)
		}
	}
}
