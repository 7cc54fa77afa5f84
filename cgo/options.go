package cuda

import (
	"fmt"
	"slices"
)

// Options of a device.
type Options struct {
	// MemoryLimit bounds the bytes of all tensors and scratch memory; 0 is all that is free. A larger card behaves like a
	// smaller one.
	MemoryLimit int64
}

// Info is what can be told about a GPU without opening it.
type Info struct {
	Ordinal     int
	Name        string
	MemoryBytes int64
	Capability  int    // 90 for compute capability 9.0
	PCI         string // its place on the bus, "0000:1b:00.0", by which other libraries know it
	Problem     string // why it cannot be used, or ""
}

// Unavailable is the error of a GPU that cannot be used: none, no driver, too old, too full to be opened, a build without CUDA.
type Unavailable struct{ Reason string }

func (e *Unavailable) Error() string { return e.Reason }

// Failure is the error of a call that failed on the device. Everything after it did nothing.
type Failure struct {
	Device string // "cuda:0"
	Op     string // operation that failed, or that noticed
	Code   int    // of CUDA; from 10000 on of cuBLAS and cuBLASLt, from 20000 on of cuSOLVER, from 30000 on of kernels/error.h
	Text   string
}

func (e *Failure) Error() string {
	way := ""
	if e.noMemory() {
		way = " with a lower --gpu-memory, which leaves the libraries more,"
	}
	if e.Code >= 30000 { // another try would end alike
		return fmt.Sprintf("%s: %s failed: %s (code %d); with --precision float32 it is not needed", e.Device, e.Op, e.Text, e.Code)
	}
	return fmt.Sprintf("%s: %s failed: %s (code %d); give the same command again%s to go on after the last complete shot", e.Device, e.Op, e.Text, e.Code, way)
}

// noMemory says that CUDA, cuBLAS or cuSOLVER were given no memory of their own.
func (e *Failure) noMemory() bool { return slices.Contains([]int{2, 10003, 20002}, e.Code) }

// OutOfMemory is the error of an allocation that the device, or its limit, has no room for.
type OutOfMemory struct {
	Device             string
	Asked, Used, Limit int64 // bytes
	Elsewhere          bool  // the limit has room, and the driver has none
}

func (e *OutOfMemory) Error() string {
	if e.Elsewhere {
		return fmt.Sprintf("%s is out of memory: %s were asked for, and it has no more, though only %s of %s are taken here: other programs hold the rest; wait for them, or use less of the GPU with a smaller --batch or --length",
			e.Device, gibibytes(e.Asked), gibibytes(e.Used), gibibytes(e.Limit))
	}
	return fmt.Sprintf("%s is out of memory: %s were asked for, %s of %s are free; a smaller --batch or --length needs less, and surgeon plan tells how much",
		e.Device, gibibytes(e.Asked), gibibytes(e.Limit-e.Used), gibibytes(e.Limit))
}

func gibibytes(n int64) string { return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30)) }
