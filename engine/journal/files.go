package journal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Hooks let a test stand between the journal and the disk.
type Hooks struct {
	// Before, if set, is called before every system call that changes the directory: n counts them from 1, op is one of
	// mkdir, create, write, rename (with the sync before it), append, truncate, sync and remove, file is the name in the
	// directory, without the ending of a temporary name. Every piece of a streamed file is one call. An error it returns
	// is taken for the answer of the system call, which is then not made.
	Before func(n int, op, file string) error
}

// pieceBytes is how much of a file goes to the disk in one system call: large enough that the calls cost nothing beside
// SHA-256 (about 1.5 GB/s), small enough that a kill falls into the middle of any real weights file.
const pieceBytes = 256 << 10

// files makes all changes in the directory, so that each passes the hook.
type files struct {
	dir    string
	before func(n int, op, file string) error
	n      int // changes so far
}

func (f *files) path(name string) string { return filepath.Join(f.dir, name) }

// step runs one change and gives its error the name of the file, instead of a temporary one.
func (f *files) step(op, name string, change func() error) error {
	f.n++
	var err error
	if f.before != nil {
		err = f.before(f.n, op, name)
	}
	if err == nil {
		err = change()
	}
	if err == nil {
		return nil
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	} else if l, ok := errors.AsType[*os.LinkError](err); ok {
		err = l.Err
	}
	return &fs.PathError{Op: op, Path: f.path(name), Err: err}
}

// digest is what tells a file from any other.
type digest struct {
	bytes  int64
	sha256 [sha256.Size]byte
}

// stream makes the file name from what fill writes: to a temporary name, synced, renamed. If anything fails the file that
// had the name stays, and the temporary one is removed at once: it may be what fills the disk. The new name itself is safe
// only after syncDirectory.
func (f *files) stream(name string, fill func(io.Writer) error) (digest, error) {
	var t *renameio.PendingFile
	err := f.step("create", name, func() (err error) {
		t, err = renameio.NewPendingFile(f.path(name), renameio.WithTempDir(f.dir), renameio.WithPermissions(0o644))
		return err
	})
	if err != nil {
		return digest{}, err
	}
	defer t.Cleanup() // nothing once renamed
	w := pieces{files: f, name: name, file: t.File, sum: sha256.New(), piece: make([]byte, 0, pieceBytes)}
	if err := fill(&w); err != nil {
		return digest{}, err
	}
	if err := w.flush(); err != nil {
		return digest{}, err
	}
	if err := f.step("rename", name, t.CloseAtomicallyReplace); err != nil {
		return digest{}, err
	}
	d := digest{bytes: w.bytes}
	w.sum.Sum(d.sha256[:0])
	return d, nil
}

// replace is stream for a file that is in memory.
func (f *files) replace(name string, content []byte) error {
	_, err := f.stream(name, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	return err
}

// pieces collects what is written to it and sends it on in pieces of pieceBytes.
type pieces struct {
	files *files
	name  string
	file  *os.File
	sum   hash.Hash
	piece []byte
	bytes int64
	err   error // the first; nothing is written after it
}

func (w *pieces) Write(p []byte) (int, error) {
	taken := 0
	for taken < len(p) {
		n := copy(w.piece[len(w.piece):cap(w.piece)], p[taken:])
		w.piece = w.piece[:len(w.piece)+n]
		taken += n
		if len(w.piece) == cap(w.piece) {
			if err := w.flush(); err != nil {
				return taken, err
			}
		}
	}
	return taken, w.err
}

func (w *pieces) flush() error {
	if w.err != nil || len(w.piece) == 0 {
		return w.err
	}
	w.err = w.files.step("write", w.name, func() error {
		_, err := w.file.Write(w.piece)
		return err
	})
	w.sum.Write(w.piece)
	w.bytes += int64(len(w.piece))
	w.piece = w.piece[:0]
	return w.err
}

// writeInPlace overwrites a file under its own name, for the lock.
func (f *files) writeInPlace(name string, content []byte) error {
	return f.step("write", name, func() error { return os.WriteFile(f.path(name), content, 0o644) })
}

func (f *files) remove(name string) error {
	return f.step("remove", name, func() error { return os.Remove(f.path(name)) })
}

// syncDirectory makes names that were given or taken away in the directory survive a power cut.
func (f *files) syncDirectory() error {
	return f.step("sync", ".", func() error { return syncDirectory(f.dir) })
}

func (f *files) makeDirectory() error {
	if info, err := os.Stat(f.dir); err == nil && info.IsDir() {
		return nil
	}
	return f.step("mkdir", ".", func() error {
		if err := os.MkdirAll(f.dir, 0o755); err != nil {
			return err
		}
		return syncDirectory(filepath.Dir(filepath.Clean(f.dir)))
	})
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openRegular opens a file for reading, with its size, and refuses what is not one: a pipe under the name of a file would
// be read for ever.
func openRegular(path string) (*os.File, int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a file but %v", path, info.Mode().Type())
	}
	f, err := os.Open(path)
	return f, info.Size(), err
}

// readRegular reads a small file.
func readRegular(path string) ([]byte, error) {
	f, _, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
