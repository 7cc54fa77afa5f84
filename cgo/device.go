//go:build cuda

package cuda

// #include "kernels.h"
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"

	"gorgonia.org/cu"

	"surgeon/engine/device"
)

// Device is one GPU. It implements device.Device.
type Device struct {
	ordinal int
	name    string
	device  cu.Device
	context cu.CUContext
	stream  cu.Stream
	opened  bool // the context is held
	closed  bool
	err     error // the first failure

	capability int // the compute capability whose kernels it runs, 90 for 9.0: the GPU's, or that of SURGEON_CUDA_CAPABILITY

	memory    pool
	transfers transfers
	watched   block // the smallest tag that WatchFinite remembers
	library   library

	longestList   int    // that the arenas hold
	jacobiOrder   int    // the largest order of matrices that Eigh gives to its own kernels
	factorOrder   int    // the largest order of matrices that are factored side by side
	factorBlock   int    // how many columns of a larger one are factored at one time
	triangleOrder int    // of triangles that are inverted and solved with so
	timer         *timer // nil without SURGEON_CUDA_SYNC

	scratchAtOnce int64 // see there
}

var _ device.Device = (*Device)(nil)

// Name is "cuda:0 NVIDIA H100 80GB HBM3".
func (d *Device) Name() string { return fmt.Sprintf("%s %s", d.id(), d.name) }

// Bits is "cuda NVIDIA H100 80GB HBM3, kernels for 9.0, cuBLAS 130100, cuSOLVER 12004": the libraries, which are found when the
// program starts, choose their algorithms by the kind of GPU.
func (d *Device) Bits() string {
	return fmt.Sprintf("cuda %s, kernels for %s, %s", d.name, dotted(d.capability), d.library.versions)
}

func (d *Device) id() string { return fmt.Sprintf("cuda:%d", d.ordinal) }

// run makes a call of the driver or of a launcher, unless the device has failed. f returns 0 or a code.
func (d *Device) run(op string, f func() C.int) {
	if d.err != nil {
		return
	}
	runtime.LockOSThread() // the context belongs to a thread
	defer runtime.UnlockOSThread()
	if err := cu.SetCurrentContext(d.context); err != nil {
		d.fail(op, err)
		return
	}
	stop := d.timer.start(op)
	if code := f(); code != 0 {
		d.err = &Failure{Device: d.id(), Op: op, Code: int(code), Text: C.GoString(C.surgeon_error(code))}
		return
	}
	if d.timer != nil {
		d.wait(op)
		stop()
	}
}

// do is run for calls of gorgonia.org/cu.
func (d *Device) do(op string, f func() error) {
	d.run(op, func() C.int {
		if err := f(); err != nil {
			d.fail(op, err)
		}
		return 0
	})
}

// wait lets the stream finish, on a thread that has the context.
func (d *Device) wait(op string) {
	if err := d.stream.Synchronize(); err != nil && d.err == nil {
		d.fail(op, err)
	}
}

// fail remembers an error of the driver.
func (d *Device) fail(op string, err error) {
	if d.err != nil {
		return
	}
	var code int
	fmt.Sscan(fmt.Sprintf("%d", err), &code) // the driver's errors are numbers
	d.err = &Failure{Device: d.id(), Op: op, Code: code, Text: err.Error()}
}

// queue is the stream, for a launcher.
func (d *Device) queue() unsafe.Pointer { return unsafe.Pointer(d.stream.C()) }

// Sync waits for queued work and reports the first failure there was.
func (d *Device) Sync() error {
	d.do("Sync", d.stream.Synchronize)
	d.dropLongList()
	return d.err
}

// Err is the first failure that is known by now.
func (d *Device) Err() error { return d.err }

// Close frees everything.
func (d *Device) Close() error {
	if d.closed || !d.opened {
		d.closed = true
		return nil
	}
	err := d.Sync()
	d.err = nil // what can be freed is freed, also after a failure, and when nothing uses it any more
	d.do("Close", d.stream.Synchronize)
	d.closeWatch()
	d.closeLibrary()
	d.closeTransfers()
	d.closeMemory()
	d.do("Close", func() error { return d.stream.Destroy() })
	if err == nil {
		err = d.err
	}
	d.closed = true
	d.timer.print(d.Name())
	if e := d.device.ReleasePrimaryCtx(); err == nil && e != nil {
		err = fmt.Errorf("%s: %w", d.id(), e)
	}
	return err
}
