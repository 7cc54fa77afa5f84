//go:build unix

// Package mapped reads a file through a memory map: opening costs nothing, and only the pages that are looked at are read.
package mapped

import (
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// Open maps the regular file at path for reading. Close the view with Close. The file must not be truncated by anybody
// while it is mapped: reading a page that is gone ends the process with SIGBUS, which no program can turn into an error.
func Open(path string) ([]byte, error) {
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
	if info.Size() == 0 {
		return nil, nil // mmap refuses length 0
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("mapping %s (%d bytes): %w", path, info.Size(), err)
	}
	return data, nil
}

// Close unmaps what Open returned; views into it must not be touched afterwards.
func Close(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	return unix.Munmap(data)
}
