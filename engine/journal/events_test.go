package journal

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Catches an event line that is glued to a torn one, a torn line that is not reported, and whole lines that are lost with
// it: the last line is cut off after every byte.
func TestTornEvent(t *testing.T) {
	dir := stopped(t, 0, Settings{})
	j := open(t, dir, Settings{})
	if err := j.Event("sample", map[string]string{"text": "line\nbreak, ü"}); err != nil {
		t.Fatal(err)
	}
	before := eventsOf(t, dir)
	j.Close()
	path := filepath.Join(dir, eventsName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	start := strings.LastIndexByte(strings.TrimSuffix(string(whole), "\n"), '\n') + 1
	for cut := start; cut <= len(whole); cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o644); err != nil {
			t.Fatal(err)
		}
		p := parseEvents(whole[:cut])
		wantEvents := len(before) - 1
		if cut == len(whole) {
			wantEvents++
		}
		if p.lines != wantEvents || len(p.problems) != 0 {
			t.Fatalf("cut after %d of %d bytes: %d events, want %d; %q", cut, len(whole), p.lines, wantEvents, p.problems)
		}
		if cut != start && cut != start+1 && cut != len(whole)-1 && cut != len(whole) {
			continue // the rest is about files, and the same for all
		}
		j := open(t, dir, Settings{})
		torn := cut > start && cut < len(whole)
		said := strings.Join(j.Warnings(), "\n")
		if strings.Contains(said, "was torn") != torn || torn && !strings.Contains(said, "line 3 ") {
			t.Errorf("cut after %d of %d bytes (a line starts at %d): %q", cut, len(whole), start, said)
		}
		j.Close()
		again := open(t, dir, Settings{})
		if len(again.Warnings()) > 0 {
			t.Errorf("cut after %d bytes: not repaired: %q", cut, again.Warnings())
		}
		again.Close()
	}
}

// Catches an unreadable line in the middle that stops the run, hides the lines after it, or is not named by its number.
func TestUnreadableEvent(t *testing.T) {
	dir := stopped(t, 1, Settings{})
	rewrite(t, filepath.Join(dir, eventsName), func(b []byte) []byte {
		lines := strings.SplitAfter(string(b), "\n")
		lines[0] = strings.Replace(lines[0], `"event"`, `"event`, 1)
		return []byte(strings.Join(lines, ""))
	})
	j := open(t, dir, Settings{})
	if w := j.Warnings(); len(w) != 1 || !strings.Contains(w[0], "journal.jsonl line 1 cannot be read") {
		t.Errorf("warnings %q", w)
	}
	if e := eventsOf(t, dir); len(e) == 0 || e[0].Kind != "shot" {
		t.Errorf("the events after the unreadable line are %v, want shot first", e)
	}
	if j.lastNumber() != 1 {
		t.Errorf("an unreadable event line costs shot 1")
	}
}

// Catches a half-written line that cannot be cut off at once, as the disk fails for that too, and is forgotten.
func TestTornEventCutLater(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	failing := false
	j := open(t, dir, Settings{Hooks: Hooks{Before: func(_ int, op, file string) error {
		if !failing {
			return nil
		}
		if op == "append" { // half a line gets there
			f, err := os.OpenFile(filepath.Join(dir, file), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			f.WriteString(`{"time":"20`)
		}
		return syscall.EIO
	}}})
	failing = true
	if err := j.Event("lost", nil); !errors.Is(err, syscall.EIO) {
		t.Fatalf("a disk that fails: %v", err)
	}
	if err := j.Event("lost", nil); !errors.Is(err, syscall.EIO) {
		t.Fatalf("a disk that still fails: %v", err)
	}
	failing = false
	if err := j.Event("kept", nil); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, eventsName))
	if err != nil {
		t.Fatal(err)
	}
	p := parseEvents(data)
	if e := readable(data); len(p.problems) > 0 || p.whole != len(data) || len(e) != 2 || e[1].Kind != "kept" {
		t.Errorf("after the disk recovered: %q", data)
	}
}

// Catches event lines that lose something, or that a display of another process could not read.
func TestEvents(t *testing.T) {
	dir := stopped(t, 2, Settings{})
	j := open(t, dir, Settings{})
	var kinds []string
	for _, e := range eventsOf(t, dir) {
		kinds = append(kinds, e.Kind)
		if e.Time.IsZero() {
			t.Errorf("event %s has no time", e.Kind)
		}
	}
	if got := strings.Join(kinds, " "); got != "started shot shot resumed" {
		t.Errorf("events: %s", got)
	}
	var fields struct {
		Number int    `json:"number"`
		Bytes  int64  `json:"bytes"`
		SHA256 string `json:"sha256"`
	}
	if err := json.Unmarshal(eventsOf(t, dir)[2].Fields, &fields); err != nil {
		t.Fatal(err)
	}
	if last, _ := j.Last(); last != (Shot{Number: fields.Number, Bytes: fields.Bytes, SHA256: fields.SHA256}) {
		t.Errorf("the event says %+v, the journal %+v", fields, last)
	}
	if err := j.Event("loss", math.Inf(1)); err == nil || !strings.Contains(err.Error(), "event loss") {
		t.Errorf("an event that JSON cannot carry: %v", err)
	}
}
