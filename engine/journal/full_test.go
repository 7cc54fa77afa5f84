package journal

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// fails answers ENOSPC to those changes a full disk refuses, from the n-th on, or only to the n-th, whatever it is.
func fails(n int, only bool) func(int, string, string) error {
	return func(i int, op, _ string) error {
		if only && i == n || !only && i >= n && op != "remove" && op != "truncate" {
			return syscall.ENOSPC
		}
		return nil
	}
}

// Catches a full disk that goes unreported, that is reported without the file or without how to go on, that costs the last
// good shot, or after which the run cannot go on: the disk is full from every change on, or refuses one sync or removal.
func TestFullDiskAtEveryChange(t *testing.T) {
	t.Parallel() // it mostly waits for the disk
	changes, want := uninterrupted(t)
	for _, only := range []bool{false, true} {
		for k := 1; k <= len(changes); k++ {
			c := changes[k-1]
			if only != (c.op == "remove" || c.op == "truncate" || c.op == "sync") {
				continue // a full disk lets a removal pass and is found full later; one refusal shows what that does
			}
			dir := filepath.Join(t.TempDir(), "run")
			err := scenario(dir, Settings{Hooks: Hooks{Before: fails(k, only)}})
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("disk full at change %d (%s %s): %v", k, c.op, c.file, err)
			}
			for _, part := range []string{"no space left", filepath.Join(dir, c.file), "make room"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("disk full at change %d (%s %s): the message lacks %q: %v", k, c.op, c.file, part, err)
				}
			}
			for name := range listing(t, existing(dir)) {
				if temporary.MatchString(name) {
					t.Errorf("disk full at change %d (%s %s): %s is left", k, c.op, c.file, name)
				}
			}
			j := open(t, dir, Settings{})
			if got, want := j.lastNumber(), lastAfter(changes, k-1); got != want {
				t.Errorf("disk full at change %d (%s %s): goes on after shot %d, want %d; %q", k, c.op, c.file, got, want, j.Warnings())
			}
			if err := goOn(j, scenarioShots); err != nil {
				t.Fatalf("disk full at change %d (%s %s): %v", k, c.op, c.file, err)
			}
			j.Close()
			same(t, content(t, dir), want)
			if t.Failed() {
				t.FailNow()
			}
			os.RemoveAll(dir)
		}
	}
}

// existing is dir, or where that could not be made an empty directory beside it.
func existing(dir string) string {
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	empty := dir + ".none"
	os.Mkdir(empty, 0o755)
	return empty
}

// Catches a journal that is spoilt by an error: after each failure the same call is made again on the same journal, as a
// caller does that waits for room, and event lines are not glued together.
func TestRetryAfterFullDisk(t *testing.T) {
	t.Parallel() // it mostly waits for the disk
	_, want := uninterrupted(t)
	dir := filepath.Join(t.TempDir(), "run")
	full := -1 // changes until the disk is full for one change
	j := open(t, dir, Settings{Hooks: Hooks{Before: func(int, string, string) error {
		full--
		if full == 0 {
			return syscall.ENOSPC
		}
		return nil
	}}})
	failures := 0
	for at := 1; ; at++ {
		full = at
		err := goOn(j, scenarioShots)
		if err == nil {
			break
		}
		failures++
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	j.Close()
	open(t, dir, Settings{}).Close() // an older shot whose removal failed last is removed here
	same(t, content(t, dir), want)
	data, err := os.ReadFile(filepath.Join(dir, eventsName))
	if err != nil {
		t.Fatal(err)
	}
	if p := parseEvents(data); len(p.problems) > 0 || p.whole != len(data) {
		t.Errorf("journal.jsonl after %d failures: %q, %d of %d bytes in whole lines", failures, p.problems, p.whole, len(data))
	}
	if failures < 10 {
		t.Errorf("only %d failures happened", failures)
	}
}
