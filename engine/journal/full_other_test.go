//go:build unix && !linux

package journal

import "os"

// beOnFullDisk is a role that only Linux can play.
func beOnFullDisk(string) { os.Exit(3) }
