package tasks

import (
	"bytes"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

// What would be caught: a part of a line that stays where the disk was full, and is glued to the next one; an error that does
// not say so. The limit of a file's size stands for a full disk: the system writes what still fits and refuses the rest.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.jsonl")
	whole := written(t, path)
	os.Remove(path)
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	limit := func(bytes uint64) {
		t.Helper()
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: min(bytes, before.Max), Max: before.Max}); err != nil {
			t.Fatal(err)
		}
	}
	defer limit(before.Cur)
	r := open(t, path)
	if err := r.Begin(); err != nil {
		t.Fatal(err)
	}
	for n, rec := range records {
		limit(uint64(r.whole) + 20)
		err := r.Append([]Record{rec})
		limit(before.Cur)
		if !errors.Is(err, syscall.EFBIG) {
			t.Errorf("record %d: %v", n, err)
		}
		if left, _ := os.ReadFile(path); int64(len(left)) != r.whole || !bytes.HasPrefix(whole, left) {
			t.Errorf("record %d: %d bytes are left of %d whole ones:\n%s", n, len(left), r.whole, left)
		}
		if err := r.Append([]Record{rec}); err != nil {
			t.Fatal(err)
		}
	}
	r.Close()
	if again, err := os.ReadFile(path); err != nil || !bytes.Equal(again, whole) {
		t.Errorf("went on to\n%s\n%v, want\n%s", again, err, whole)
	}
}
