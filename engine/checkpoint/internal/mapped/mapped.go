//go:build unix

// Package mapped reads a file through a memory map: opening costs nothing, and only the pages that are looked at are read.
package mapped

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"
)

// File is a mapped file. The zero File, and nil, are of no bytes.
type File struct {
	path string
	info os.FileInfo // as it was opened
	data []byte
}

// Open maps the regular file at path for reading.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the map outlives the descriptor
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file (%s); only regular files can be mapped", path, info.Mode())
	}
	if info.Size() > math.MaxInt {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d this machine can address", path, info.Size(), math.MaxInt)
	}
	m := &File{path: path, info: info}
	if info.Size() == 0 {
		return m, nil // mmap refuses length 0
	}
	if m.data, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE); err != nil {
		return nil, fmt.Errorf("mapping %s (%d bytes): %w", path, info.Size(), err)
	}
	return m, nil
}

// Bytes are those of the file, valid until Close. They may be looked at under Guard only.
func (m *File) Bytes() []byte { return m.data }

// Guard calls do, which looks at the file's bytes, and returns its error, or a Lost where the file became shorter: of a page that is
// gone the kernel tells by SIGBUS, for which Go ends the process, unless the goroutine has asked for a panic; of a page that the
// file now ends in it tells nothing, and the rest of that reads as zeros, so that Guard looks at the file's size when do is
// done. All of the looking must be done by this goroutine, or by workers of parallel.For, which ask for what their caller asks
// for; not by C, nor by a device. What else do panics with goes on.
func (m *File) Guard(do func() error) (err error) {
	if m == nil || len(m.data) == 0 {
		return do()
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			fault, ok := p.(interface {
				runtime.Error
				Addr() uintptr
			})
			if !ok || !m.holds(fault.Addr()) {
				panic(p)
			}
			err = m.lost()
		}
	}()
	err = do()
	if lost := m.lost(); errors.Is(err, unix.EFAULT) || lost.Is >= 0 && lost.Is < lost.Was { // the one of a system call that was to write the bytes elsewhere
		return lost
	}
	return err
}

// holds tells whether an address is one of the file's bytes.
func (m *File) holds(address uintptr) bool {
	first := uintptr(unsafe.Pointer(unsafe.SliceData(m.data)))
	return first <= address && address < first+uintptr(len(m.data))
}

// lost says what became of the file.
func (m *File) lost() *Lost {
	l := &Lost{Path: m.path, Was: m.info.Size(), Is: -1}
	if now, err := os.Stat(m.path); err == nil && os.SameFile(m.info, now) {
		l.Is = now.Size()
	}
	return l
}

// Lost says that bytes of a file cannot be read that were there when it was opened.
type Lost struct {
	Path string
	Was  int64 // bytes, when it was opened
	Is   int64 // now; −1 where another file has its name, or none
}

func (l *Lost) Error() string {
	if 0 <= l.Is && l.Is < l.Was {
		return fmt.Sprintf("%s became shorter while it was read: it has %d bytes now and had %d; put back what it was, and give the same command again", l.Path, l.Is, l.Was)
	}
	return fmt.Sprintf("%s could be opened, but a part of it cannot be read any more; see whether the file is whole and its disk in order, and give the same command again", l.Path)
}

// Close unmaps the file; its bytes must not be touched afterwards.
func (m *File) Close() error {
	if m == nil || len(m.data) == 0 {
		return nil
	}
	data := m.data
	m.data = nil
	return unix.Munmap(data)
}
