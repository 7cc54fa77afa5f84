package engine

import "syscall"

// diskOf tells which file system a directory is on, and how many bytes a user without rights of his own may still write there.
func diskOf(dir string) (id uint64, free int64, ok bool) {
	var file syscall.Stat_t
	var system syscall.Statfs_t
	if syscall.Stat(dir, &file) != nil || syscall.Statfs(dir, &system) != nil || system.Blocks == 0 { // some tell of no block at all
		return 0, 0, false
	}
	unit := system.Frsize
	if unit == 0 {
		unit = system.Bsize
	}
	return file.Dev, int64(system.Bavail) * unit, true
}
