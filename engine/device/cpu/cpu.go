// Package cpu is the device in main memory, and the definition of every operation: any other device is checked against
// this one, in float64.
//
// Float32 and float64 are worked on as such, by one generic function per operation. Bfloat16 is widened to float32 scratch
// tensors, worked on, and stored rounding to nearest even (widen.go): slow, but there is one place where it can be wrong.
//
// All products go through gonum's blas32, blas64 and lapack64. The build tag openblas puts OpenBLAS behind them and changes
// nothing else; it needs a C compiler and the headers and libraries of OpenBLAS and LAPACKE.
//
// Work is shared over GOMAXPROCS cores in pieces whose boundaries depend on shapes alone, and no sum is shared between
// workers. So the same bits come out at every run, on any number of cores. OpenBLAS has other kernels for other processors,
// and other bits there.
package cpu

import (
	"fmt"
	"runtime"
	"unsafe"

	"surgeon/engine/device"
)

// Device is main memory and the cores beside it. It implements device.Device.
type Device struct {
	store  store
	watch  watch
	closed bool
}

var _ device.Device = (*Device)(nil)

// Open makes a device that works with runtime.GOMAXPROCS goroutines.
func Open() *Device {
	return &Device{store: store{spare: map[int][]spare{}}}
}

// Name is "cpu (gonum, 2 threads)".
func (d *Device) Name() string {
	return fmt.Sprintf("cpu (%s, %d threads)", blasName, runtime.GOMAXPROCS(0))
}

// Bits is "cpu (gonum, amd64)", or "cpu (OpenBLAS, Zen)": what the bits of a result depend on. The number of threads is not
// among it.
func (d *Device) Bits() string { return fmt.Sprintf("cpu (%s, %s)", blasName, kernels()) }

// Sync has nothing to wait for, and main memory does not fail.
func (d *Device) Sync() error { return nil }

// Err is nil, as Sync is.
func (d *Device) Err() error { return nil }

// Close gives all memory back to the garbage collector.
func (d *Device) Close() error {
	d.closed = true
	d.store = store{}
	return nil
}

// Memory tells how much tensors hold, scratch tensors of the running operation included.
func (d *Device) Memory() device.Memory {
	return device.Memory{Total: machineBytes(), Used: int64(d.store.used), Peak: int64(d.store.peak), Host: true}
}

// Alloc makes a rows×cols tensor. It starts at a multiple of 64 bytes: gonum's kernels sum in an order that depends on the
// alignment of their operands.
func (d *Device) Alloc(rows, cols int, t device.Type) device.Tensor {
	device.CheckAlloc(rows, cols, t)
	device.CheckOpen(d.closed)
	b := &buffer{owner: d, typ: t, len: rows * cols, data: d.store.get(rows * cols * t.Size())}
	return device.Tensor{Rows: rows, Cols: cols, Type: t, Handle: b}
}

// Free gives tensors back. Their memory is kept for the next Alloc of the same size (see store).
func (d *Device) Free(ts ...device.Tensor) {
	for _, t := range ts {
		if t.IsZero() {
			continue
		}
		b := d.buffer(t)
		d.store.put(b.data, b.len*b.typ.Size())
		b.owner, b.data = nil, nil
	}
}

// buffer is an allocation, the Handle of its tensors.
type buffer struct {
	owner *Device // nil once freed
	typ   device.Type
	len   int            // in elements
	data  unsafe.Pointer // of the first element
}

// buffer is the allocation behind t.
func (d *Device) buffer(t device.Tensor) *buffer {
	device.CheckOpen(d.closed)
	b, ok := t.Handle.(*buffer)
	a := device.Allocation{}
	if ok {
		a = device.Allocation{Made: b.owner == nil || b.owner == d, Freed: b.owner == nil, Type: b.typ, Len: b.len}
	}
	device.CheckTensor(t, a)
	return b
}

// float is a type that arithmetic is done in.
type float interface{ float32 | float64 }

// elements is the content of t. E must be the Go type of t.Type; bfloat16 is uint16.
func elements[E float | uint16](d *Device, t device.Tensor) []E {
	b := d.buffer(t)
	var e E
	if int(unsafe.Sizeof(e)) != t.Type.Size() {
		panic(fmt.Sprintf("cpu: %s taken for %T", t.Type, e))
	}
	return unsafe.Slice((*E)(b.data), b.len)[t.Offset : t.Offset+t.Len()]
}

// scratch is a vector for the length of an operation, and the function that gives it back.
func scratch[E float](d *Device, n int) ([]E, func()) {
	t := d.Alloc(1, n, device.TypeOf[E]())
	return elements[E](d, t), func() { d.Free(t) }
}
