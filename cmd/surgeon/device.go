package main

import (
	"fmt"
	"os"
	"regexp"
	"runtime/pprof"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// open does what every command that computes begins with: threads, profile, watcher, device. shots is the number of shots
// of the run, 0 for a command without any.
func (s *session) open(c common, shots int) (device.Device, error) {
	s.common = c
	if err := s.useThreads(c.Threads); err != nil {
		return nil, err
	}
	if err := s.profile(c.CPUProfile); err != nil {
		return nil, err
	}
	s.watcher = newWatcher(s.stderr, c, shots)
	s.atEnd(s.watcher.End)
	limit, err := parseBytes("--gpu-memory", c.GPUMemory)
	if err != nil {
		return nil, err
	}
	dev, choice, err := openDevice(c.Device, limit)
	if err != nil {
		return nil, err
	}
	s.atEnd(func() { dev.Close() })
	s.watcher.Say(choice)
	return dev, nil
}

// cudaName is how a CUDA device is asked for.
var cudaName = regexp.MustCompile(`^cuda(:\d{1,3})?$`)

// openDevice opens a device by its name, and says in a sentence which it is and why. gpuMemory is the most bytes of a GPU's
// memory to use, 0 for all.
func openDevice(name string, gpuMemory int64) (dev device.Device, choice string, err error) {
	switch {
	case gpuMemory > 0 && (name == "auto" || name == "cpu"):
		return nil, "", refuse("--gpu-memory limits a GPU; this run is on the CPU, which uses what a run needs: leave it out, and see surgeon plan for how much that is")
	case name == "auto":
		d := cpu.Open()
		return d, fmt.Sprintf("device: %s; chosen because this build runs on the CPU only", d.Name()), nil
	case name == "cpu":
		d := cpu.Open()
		return d, fmt.Sprintf("device: %s", d.Name()), nil
	case cudaName.MatchString(name):
		return nil, "", refuse("--device is %s; this build runs on the CPU; CUDA comes with the surgeon-cuda binary, which `make cuda` will build once its kernels are written; use --device cpu", name)
	}
	return nil, "", refuse("--device is %q; cpu, cuda:N or auto is expected", name)
}

// profile writes a CPU profile until the program ends.
func (s *session) profile(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return refuse("--cpuprofile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return fmt.Errorf("--cpuprofile: %w", err)
	}
	s.atEnd(func() {
		pprof.StopCPUProfile()
		f.Close()
	})
	return nil
}
