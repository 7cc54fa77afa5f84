//go:build cuda

package cuda

// #cgo CFLAGS: -I${SRCDIR}/../kernels
// #include "kernels.h"
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"gorgonia.org/cu"

	"surgeon/engine/device"
)

// Built says whether this build can open a GPU.
const Built = true

const (
	oldestCapability = 80    // bfloat16 tensor cores and asynchronous copies
	oldestDriver     = 13000 // the CUDA that the kernels are built with

	sharedMemoryOfBlock = cu.DeviceAttribute(97) // CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, for which gorgonia.org/cu has no name
	leastShared         = 163 << 10              // bytes: what an A100 has, and kernels are written for
)

// isEmulated says whether kernels run on the CPU (kernels/emu).
func isEmulated() bool { return C.surgeon_emulated() != 0 }

// ready is an error where there is no driver to work with. Every call of the driver comes after it.
func ready() error {
	if C.surgeon_interface() != C.SURGEON_INTERFACE {
		return &Unavailable{fmt.Sprintf("the kernels are of interface %d, this program needs %d; build both again with `make cuda`", C.surgeon_interface(), C.SURGEON_INTERFACE)}
	}
	if problem := C.surgeon_driver_problem(); problem != nil {
		return &Unavailable{C.GoString(problem)}
	}
	if v := cu.Version(); v < oldestDriver {
		return &Unavailable{fmt.Sprintf("the NVIDIA driver is for CUDA %d.%d; this build needs one for %d.%d or newer (driver 580)", v/1000, v%1000/10, oldestDriver/1000, oldestDriver%1000/10)}
	}
	return nil
}

var noGPU = &Unavailable{"there is an NVIDIA driver on this machine, but no GPU"}

// Devices lists the GPUs. The error is an Unavailable where there is none.
func Devices() ([]Info, error) {
	if err := ready(); err != nil {
		return nil, err
	}
	n, err := cu.NumDevices()
	if err != nil {
		return nil, fmt.Errorf("counting GPUs: %w", err)
	}
	if n == 0 {
		return nil, noGPU
	}
	all := make([]Info, n)
	for i := range all {
		if _, all[i], err = describe(i); err != nil {
			return nil, fmt.Errorf("cuda:%d: %w", i, err)
		}
	}
	return all, nil
}

func describe(ordinal int) (cu.Device, Info, error) {
	info := Info{Ordinal: ordinal}
	dev, err := cu.GetDevice(ordinal)
	if err != nil {
		return dev, info, err
	}
	if info.Name, err = dev.Name(); err != nil {
		return dev, info, err
	}
	if info.MemoryBytes, err = dev.TotalMem(); err != nil {
		return dev, info, err
	}
	major, err := dev.Attribute(cu.ComputeCapabilityMajor)
	if err != nil {
		return dev, info, err
	}
	minor, err := dev.Attribute(cu.ComputeCapabilityMinor)
	if err != nil {
		return dev, info, err
	}
	shared, err := dev.Attribute(sharedMemoryOfBlock)
	if err != nil {
		return dev, info, err
	}
	if info.Capability = 10*major + minor; info.Capability < oldestCapability {
		info.Problem = fmt.Sprintf("compute capability %s; at least %s is needed (A100 or newer)", dotted(info.Capability), dotted(oldestCapability))
	} else if shared < leastShared {
		info.Problem = fmt.Sprintf("%d KiB of shared memory for a block of threads; %d are needed (A100, H100 or newer; GPUs for workstations have less)", shared>>10, leastShared>>10)
	}
	var place [3]int
	for i, a := range []cu.DeviceAttribute{cu.PciDomainID, cu.PciBusID, cu.PciDeviceID} {
		if place[i], err = dev.Attribute(a); err != nil {
			return dev, info, err
		}
	}
	info.PCI = fmt.Sprintf("%04x:%02x:%02x.0", place[0], place[1], place[2])
	return dev, info, nil
}

// Open opens the GPU with that number, unless it fails its self-test.
func Open(ordinal int, o Options) (device.Device, error) {
	d, err := open(ordinal, o)
	if err != nil {
		return nil, err
	}
	if err := d.selfTest(); err != nil {
		d.Close()
		return nil, notOpened(ordinal, o, err)
	}
	return d, nil
}

func open(ordinal int, o Options) (*Device, error) {
	if err := ready(); err != nil {
		return nil, err
	}
	n, err := cu.NumDevices()
	if err != nil {
		return nil, fmt.Errorf("counting GPUs: %w", err)
	}
	switch {
	case n == 0:
		return nil, noGPU
	case ordinal >= n && n == 1:
		return nil, &Unavailable{fmt.Sprintf("there is no cuda:%d; this machine has one GPU, cuda:0", ordinal)}
	case ordinal >= n:
		return nil, &Unavailable{fmt.Sprintf("there is no cuda:%d; this machine has %d GPUs, cuda:0 to cuda:%d", ordinal, n, n-1)}
	}
	dev, info, err := describe(ordinal)
	if err != nil {
		return nil, fmt.Errorf("cuda:%d: %w", ordinal, err)
	}
	if info.Problem != "" {
		return nil, &Unavailable{fmt.Sprintf("cuda:%d, %s, has %s", ordinal, info.Name, info.Problem)}
	}
	for _, name := range []string{"CUBLAS_EMULATE_DOUBLE_PRECISION", "CUBLAS_EMULATE_SINGLE_PRECISION"} {
		if v := os.Getenv(name); v != "" && v != "0" { // Bits would promise what another run does not keep
			return nil, &Unavailable{fmt.Sprintf("%s is %q, by which cuBLAS may put other arithmetic in the place of float64 and float32; unset it", name, v)}
		}
	}
	capability, err := kernelsFor(info.Capability)
	if err != nil {
		return nil, err
	}
	d := &Device{ordinal: ordinal, name: info.Name, device: dev, capability: capability, timer: newTimer(), longestList: arenaBytes / 8, jacobiOrder: defaultJacobiOrder,
		factorOrder: defaultFactorOrder, factorBlock: defaultFactorBlock, triangleOrder: defaultTriangleOrder, scratchAtOnce: scratchAtOnce}
	if err := d.start(o); err != nil {
		d.Close()
		return nil, notOpened(ordinal, o, err)
	}
	return d, nil
}

// notOpened is the error of a GPU that could not be opened because of err. One that has no room for that is unavailable, and what
// would need less of it in a run does not help.
func notOpened(ordinal int, o Options, err error) error {
	full, isFull := errors.AsType[*OutOfMemory](err)
	failed, _ := errors.AsType[*Failure](err)
	switch {
	case isFull && o.MemoryLimit > 0 && !full.Elsewhere:
		return &Unavailable{fmt.Sprintf("opening cuda:%d takes %s and more, and --gpu-memory gives it %s; give it more, or leave that out", ordinal, mebibytes(full.Used+full.Asked), mebibytes(full.Limit))}
	case isFull:
		had := full.Limit
		if full.Elsewhere {
			had = full.Used
		}
		return &Unavailable{fmt.Sprintf("opening cuda:%d takes %s and more, and %s are free; %s", ordinal, mebibytes(full.Used+full.Asked), mebibytes(had), waysToRoom)}
	case failed != nil && failed.noMemory() || errors.Is(err, cu.OutOfMemory):
		return &Unavailable{fmt.Sprintf("opening cuda:%d: the driver and NVIDIA's libraries found no memory for themselves (%v); %s", ordinal, err, waysToRoom)}
	}
	return fmt.Errorf("opening cuda:%d: %w", ordinal, err)
}

// waysToRoom is what helps where a GPU is full before a run has begun.
const waysToRoom = "wait until other programs give memory back, or use another GPU, or --device cpu"

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// kernelsFor is the compute capability whose kernels a GPU runs: its own, or an older one that SURGEON_CUDA_CAPABILITY asks for, so
// that the kernels of an A100 can be tried and timed on what is newer.
func kernelsFor(own int) (int, error) {
	asked := os.Getenv("SURGEON_CUDA_CAPABILITY")
	if asked == "" {
		return own, nil
	}
	n, err := strconv.Atoi(asked)
	if err != nil || n < oldestCapability || n > own {
		return 0, &Unavailable{fmt.Sprintf("SURGEON_CUDA_CAPABILITY is %q; it is the compute capability whose kernels are used, from %d to the GPU's own %d", asked, oldestCapability, own)}
	}
	return n, nil
}

// dotted is "9.0" for 90.
func dotted(capability int) string { return fmt.Sprintf("%d.%d", capability/10, capability%10) }

// start takes what the device works with.
func (d *Device) start(o Options) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var err error
	if d.context, err = d.device.RetainPrimaryCtx(); err != nil {
		return err
	}
	d.opened = true
	if err = cu.SetCurrentContext(d.context); err != nil {
		return err
	}
	if d.stream, err = cu.MakeStream(cu.DefaultStream); err != nil {
		return err
	}
	if err := d.startMemory(o.MemoryLimit); err != nil {
		return err
	}
	if err := d.startTransfers(); err != nil {
		return err
	}
	if err := d.startWatch(); err != nil {
		return err
	}
	if err := d.startLibrary(); err != nil {
		return err
	}
	d.memory.own = d.memory.used
	return d.Sync()
}
