//go:build !linux

package engine

// diskOf is known on Linux only: elsewhere a full disk is told when it is full.
func diskOf(string) (id uint64, free int64, ok bool) { return 0, 0, false }
