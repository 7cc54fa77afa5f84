package model

import "surgeon/engine/device"

// weight is one tensor of the model under its name in a checkpoint.
type weight struct {
	name   string
	tensor device.Tensor
}

// Parameters is the number of weights of the whole model, a tied head counted once.
func (m *Model) Parameters() int {
	n := 0
	for _, w := range m.weights {
		n += w.tensor.Len()
	}
	return n
}

// Tensor finds a tensor by its name in a checkpoint.
func (m *Model) Tensor(name string) (device.Tensor, bool) {
	for _, w := range m.weights {
		if w.name == name {
			return w.tensor, true
		}
	}
	return device.Tensor{}, false
}

// Round applies round to the values of every tensor, one after the other, so that the model on the device becomes the one
// that a file of a narrower type holds.
func (m *Model) Round(round func(name string, values []float32) error) error {
	for _, w := range m.weights {
		values := device.DownloadSlice[float32](m.dev, w.tensor)
		if err := round(w.name, values); err != nil {
			return err
		}
		device.UploadSlice(m.dev, values, w.tensor)
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
