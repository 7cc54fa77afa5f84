package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime/pprof"
	"strconv"

	"surgeon/cgo"
	"surgeon/cgo/telemetry"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/report"
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
	dev, err := s.openDevice(c.Device, limit)
	if err != nil {
		return nil, err
	}
	s.atEnd(func() { dev.Close() })
	if dev.instead {
		s.watcher.Warn(dev.choice)
	} else {
		s.watcher.Say(dev.choice)
	}
	s.pci = dev.pci
	return dev.Device, nil
}

// cudaName is how a CUDA device is asked for. Without a number it is the first.
var cudaName = regexp.MustCompile(`^cuda(?::(\d{1,3}))?$`)

// opened is a device and what is known about it.
type opened struct {
	device.Device
	choice  string // a sentence: which device it is, and why where that was not asked for
	instead bool   // of a GPU that is there and cannot be used
	pci     string // of a GPU: its place on the bus
}

// openDevice opens a device by its name. memoryLimit bounds the memory of a GPU, in bytes; 0 is no bound.
func (s *session) openDevice(name string, memoryLimit int64) (opened, error) {
	switch {
	case name == "auto":
		return s.chooseDevice(memoryLimit)
	case name == "cpu" && memoryLimit > 0:
		return opened{}, refuse("--gpu-memory limits a GPU; this run is on the CPU, which uses what a run needs: leave it out, and see surgeon plan for how much that is")
	case name == "cpu":
		d := cpu.Open()
		return opened{Device: d, choice: "device: " + d.Name()}, nil
	}
	m := cudaName.FindStringSubmatch(name)
	if m == nil {
		return opened{}, refuse("--device is %q; cpu, cuda:N or auto is expected", name)
	}
	ordinal, _ := strconv.Atoi(m[1]) // "" is 0
	d, err := openGPU(ordinal, memoryLimit)
	if err != nil {
		if none, ok := errors.AsType[*cuda.Unavailable](err); ok {
			return d, refuse("--device is %s; %w", name, none)
		}
		return d, err
	}
	d.choice = "device: " + d.Name()
	return d, nil
}

// chooseDevice opens the first GPU that can be used, or else the CPU, and says which and why.
func (s *session) chooseDevice(memoryLimit int64) (opened, error) {
	d, err := firstGPU(memoryLimit)
	switch {
	case err == nil:
		d.choice = fmt.Sprintf("device: %s; chosen because it is the first GPU that can be used", d.Name())
		return d, nil
	case memoryLimit > 0: // who bounds the memory of a GPU has one in mind
		return d, refuse("--gpu-memory limits a GPU, and none can be used: %s", s.noGPU(err))
	}
	d.Device = cpu.Open()
	d.choice = fmt.Sprintf("device: %s; chosen because %s", d.Name(), s.noGPU(err))
	gpus, _ := cuda.Devices()
	d.instead = len(gpus) > 0
	return d, nil
}

// noGPU is why no GPU is used, where opening one ends in err.
func (s *session) noGPU(err error) string {
	switch {
	case cuda.Built:
		return err.Error()
	case s.noCUDA != "":
		return s.noCUDA
	}
	return "this build of surgeon has no CUDA, and no NVIDIA GPU was found"
}

// firstGPU opens the first GPU that can be used. The error is why the first of all cannot.
func firstGPU(memoryLimit int64) (opened, error) {
	first, err := openGPU(0, memoryLimit)
	if err == nil {
		return first, nil
	}
	all, _ := cuda.Devices()
	for i := 1; i < len(all); i++ {
		if d, err := openGPU(i, memoryLimit); err == nil {
			return d, nil
		}
	}
	return opened{}, err
}

func openGPU(ordinal int, memoryLimit int64) (opened, error) {
	d, err := cuda.Open(ordinal, cuda.Options{MemoryLimit: memoryLimit})
	if err != nil {
		return opened{}, err
	}
	o := opened{Device: d}
	if all, err := cuda.Devices(); err == nil && ordinal < len(all) {
		o.pci = all[ordinal].PCI
	}
	return o, nil
}

// telemetry begins to sample the open GPU until the program ends. What it returns tells what was seen so far, for the
// report; nil on the CPU, and where the driver tells nothing, which is said.
func (s *session) telemetry() func() *report.GPU {
	if s.pci == "" {
		return nil
	}
	watch, err := s.watchGPU()
	if err != nil {
		s.watcher.Say(fmt.Sprintf("the report will not tell the GPU's power and clocks: %v", err))
		return nil
	}
	return watch.GPU
}

func (s *session) watchGPU() (*telemetry.Watch, error) {
	nvml, err := telemetry.Open()
	if err != nil {
		return nil, err
	}
	s.atEnd(nvml.Close)
	watch, err := nvml.Watch(s.pci)
	if err != nil {
		return nil, err
	}
	s.atEnd(watch.Stop)
	return watch, nil
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
