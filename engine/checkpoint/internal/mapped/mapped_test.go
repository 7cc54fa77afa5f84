package mapped

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"surgeon/engine/internal/parallel"
)

// mappedFile is a file of so many bytes, none of them 0, that is mapped.
func mappedFile(t *testing.T, size int) (*File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(strings.Repeat("x", size)), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, path
}

func truncate(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// What would be caught: a file that is made shorter while it is mapped, and ends the process, whoever looks at it: this goroutine, a
// worker, or the kernel for a system call.
func TestTruncated(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	const size = 8 << 20
	for what, look := range map[string]func(data []byte) error{
		"by this goroutine": func(data []byte) error {
			for _, b := range data {
				if b != 'x' && b != 0 { // of the page that the end of the file is in, 0 can be read
					t.Errorf("a byte is %d", b)
				}
			}
			return nil
		},
		"by the runtime": func(data []byte) error { copy(make([]byte, len(data)), data); return nil },
		"by workers": func(data []byte) error {
			parallel.For(len(data), 1<<16, func(_, from, to int) { copy(make([]byte, to-from), data[from:to]) })
			return nil
		},
		"by the kernel": func(data []byte) error { return os.WriteFile(filepath.Join(t.TempDir(), "copy"), data, 0o600) },
	} {
		m, path := mappedFile(t, size)
		if err := m.Guard(func() error { return look(m.Bytes()) }); err != nil {
			t.Errorf("%s: a whole file: %v", what, err)
		}
		truncate(t, path, size-1) // within its last page, where no look is a fault
		if _, ok := errors.AsType[*Lost](m.Guard(func() error { return look(m.Bytes()) })); !ok {
			t.Errorf("%s: a byte is gone, and nothing tells", what)
		}
		truncate(t, path, size/2+1)
		err := m.Guard(func() error { return look(m.Bytes()) })
		lost, ok := errors.AsType[*Lost](err)
		if !ok || lost.Path != path || lost.Was != size || lost.Is != size/2+1 || !strings.Contains(err.Error(), "became shorter while it was read") {
			t.Errorf("%s: %v", what, err)
		}
		if debug.SetPanicOnFault(false) {
			t.Errorf("%s: a fault is a panic for the rest of the goroutine", what)
		}
	}
}

// What would be caught: a fault in memory that is not the file's, or a panic of another kind, that passes for a file which became
// shorter.
func TestGuardLetsOtherPanicsThrough(t *testing.T) {
	m, _ := mappedFile(t, 1<<16)
	other, path := mappedFile(t, 1<<16)
	truncate(t, path, 0)
	bug := errors.New("a bug")
	for what, do := range map[string]func() error{
		"a panic":                func() error { panic(bug) },
		"an index":               func() error { _ = m.Bytes()[len(m.Bytes())]; return nil },
		"a fault of another map": func() error { _ = string(other.Bytes()); return nil },
	} {
		func() {
			defer func() {
				if p := recover(); p == nil || what == "a panic" && p != bug {
					t.Errorf("%s comes back as %v", what, p)
				}
			}()
			t.Errorf("%s ends as the error %v", what, m.Guard(do))
		}()
	}
	if err := m.Guard(func() error { return bug }); err != bug {
		t.Errorf("an error comes back as %v", err)
	}
	if err := m.Guard(func() error { return other.Guard(func() error { _ = string(other.Bytes()); return nil }) }); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("under two guards: %v", err)
	}
}
