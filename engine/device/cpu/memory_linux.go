package cpu

import "golang.org/x/sys/unix"

// machineBytes is the main memory of the machine, or 0 where the system does not say.
func machineBytes() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}
