package model

import (
	"slices"
	"unsafe"

	"surgeon/engine/device"
)

// weight is one tensor of the model under its name in a checkpoint.
//
// The weights that a run changes are re-fitted in float64 again and again, by steps that may be far smaller than half a
// unit in the last of bfloat16's eight bits, and rounding to those would lose them. So in a bfloat16 model each such tensor
// has a master in main memory, and the tensor on the device, which the passes read, is the master's rounding. Everything
// else reads and writes the master. Tensors that never change need none.
type weight struct {
	name   string
	tensor device.Tensor
	master []float32 // row-major; nil where the tensor itself is what the values are
}

// copyTo is dst ← the values, dst of the tensor's shape and any type.
func (w *weight) copyTo(d device.Device, dst device.Tensor) {
	if w.master == nil {
		d.Copy(w.tensor, dst)
	} else {
		device.UploadSlice(d, w.master, dst)
	}
}

// copyFrom is the values ← src, a tensor of any type and of as many elements.
func (w *weight) copyFrom(d device.Device, src device.Tensor) {
	if w.master == nil {
		d.Copy(src, w.tensor)
		return
	}
	rounded := src // as the master is, and on the device, so that the master needs not come back to be rounded again
	if src.Type != device.F32 {
		rounded = d.Alloc(src.Rows, src.Cols, device.F32)
		defer d.Free(rounded)
		d.Copy(src, rounded)
	}
	d.Download(rounded, device.F32, bytesOf(w.master))
	d.Copy(rounded, w.tensor)
}

// Parameters is the number of weights of the whole model, a tied head counted once.
func (m *Model) Parameters() int {
	n := 0
	for _, w := range m.weights {
		n += w.tensor.Len()
	}
	return n
}

// Download fills dst with the values of the tensor of that name in a checkpoint, row-major and little-endian. They are
// exact as m.Type.Acc(); as is that, or float32.
func (m *Model) Download(name string, as device.Type, dst []byte) {
	if w := m.weight(name, as); w.master == nil {
		m.dev.Download(w.tensor, as, dst)
	} else {
		copy(dst, bytesOf(w.master))
	}
}

// Master is the memory of a tensor's master, float32, which may be read at any time in which nothing changes the weights; nil
// where the tensor has none.
func (m *Model) Master(name string) []byte {
	if w := m.weight(name, device.F32); w.master != nil {
		return bytesOf(w.master)
	}
	return nil
}

// Upload makes src, elements of type as, the values of a tensor, as Download gave them.
func (m *Model) Upload(name string, src []byte, as device.Type) {
	w := m.weight(name, as)
	if w.master != nil {
		copy(bytesOf(w.master), src)
	}
	m.dev.Upload(src, as, w.tensor)
}

// Values are the values of a tensor in a new slice, rounded to float32.
func (m *Model) Values(name string) []float32 {
	values := make([]float32, m.weight(name, device.F32).tensor.Len())
	m.Download(name, device.F32, bytesOf(values))
	return values
}

// SetValues makes these the values of a tensor.
func (m *Model) SetValues(name string, values []float32) { m.Upload(name, bytesOf(values), device.F32) }

// weight finds a tensor whose values are to go to or come from elements of type as.
func (m *Model) weight(name string, as device.Type) *weight {
	i := slices.IndexFunc(m.weights, func(w *weight) bool { return w.name == name })
	if i < 0 {
		panic(device.Misuse("model: there is no tensor " + name))
	}
	if as != device.F32 && as != m.Type.Acc() {
		panic(device.Misuse("model: the values of a " + m.Type.String() + " model as " + as.String()))
	}
	return m.weights[i]
}

// bytesOf is the memory of x, seen as bytes. Every platform this program builds for is little-endian.
func bytesOf(x []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}

// Round applies round to the values of every tensor, one after the other, so that the model on the device becomes the one
// that a file of a narrower type holds.
func (m *Model) Round(round func(name string, values []float32) error) error {
	var buffer []float32
	for _, w := range m.weights {
		values := w.master
		if values == nil {
			buffer = slices.Grow(buffer[:0], w.tensor.Len())
			values = buffer[:w.tensor.Len()]
			m.dev.Download(w.tensor, device.F32, bytesOf(values))
		}
		if err := round(w.name, values); err != nil {
			return err
		}
		m.dev.Upload(bytesOf(values), device.F32, w.tensor)
	}
	return nil
}

// Free gives weights and buffers back.
func (m *Model) Free() {
	m.Release()
	for _, w := range m.weights {
		m.dev.Free(w.tensor)
	}
	m.weights = nil
}
