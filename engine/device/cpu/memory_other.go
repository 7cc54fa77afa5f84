//go:build !linux

package cpu

// machineBytes is 0: how much memory the machine has is only asked for on Linux.
func machineBytes() int64 { return 0 }
