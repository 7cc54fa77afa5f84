package journal

import (
	"bytes"
	"reflect"
	"testing"
)

// Catches a panic, lines that are lost or invented, and messages that outgrow the file.
func FuzzEvents(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		p := parseEvents(data)
		if p.whole > len(data) || p.lines != bytes.Count(data, []byte("\n")) || bytes.IndexByte(data[p.whole:], '\n') >= 0 {
			t.Fatalf("%d lines in %d of %d bytes", p.lines, p.whole, len(data))
		}
		if unreadable := p.lines - len(readable(data)); len(p.problems) != min(unreadable, maxProblems+1) {
			t.Fatalf("%d problems, %d unreadable ones in %d lines", len(p.problems), unreadable, p.lines)
		}
		if again := parseEvents(data[:p.whole]); !reflect.DeepEqual(again, p) {
			t.Fatal("without the torn line it reads differently")
		}
	})
}

// Catches a panic, and a record that is believed though it is not what was written.
func FuzzRecord(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err != nil {
			return
		}
		if !bytes.Equal(r.encode(), data) {
			t.Fatalf("believed, but written as %q", r.line())
		}
		var state any
		if err := r.decodeState(&state); err != nil {
			t.Fatalf("believed, but %v", err)
		}
	})
}

// Catches a panic, options that differ from themselves, and a refusal that outgrows the file.
func FuzzOptions(f *testing.F) {
	here := []byte(`{"shots": 5, "model": {"path": "m", "data": {"files": ["a"], "seed": 9007199254740993}}}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := parseOptions(data); err != nil {
			return
		}
		if err := compareOptions("dir", data, data); err != nil {
			t.Fatal(err)
		}
		// An altered byte may be written with six (\ufffd). Beside its name and value a difference holds at most our
		// longest prefix, our longest value, and the words between.
		if err := compareOptions("dir", data, here); err != nil && len(err.Error()) > 1000+60*len(data) {
			t.Fatalf("a refusal of %d bytes from a file of %d", len(err.Error()), len(data))
		}
	})
}
