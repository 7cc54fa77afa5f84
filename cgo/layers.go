//go:build cuda

package cuda

import "surgeon/engine/device"

func (d *Device) Embed(table device.Tensor, ids []int32, beta float64, x device.Tensor) {
	panic("not written yet")
}

func (d *Device) AddRow(b, x device.Tensor) { panic("not written yet") }

func (d *Device) RMSNorm(x, gain device.Tensor, eps float64, y device.Tensor) {
	panic("not written yet")
}

func (d *Device) RMSNormBackward(x, gain device.Tensor, eps float64, dy device.Tensor, beta float64, dx device.Tensor) {
	panic("not written yet")
}

func (d *Device) LayerNorm(x, gain, bias device.Tensor, eps float64, y device.Tensor) {
	panic("not written yet")
}

func (d *Device) LayerNormBackward(x, gain device.Tensor, eps float64, dy device.Tensor, beta float64, dx device.Tensor) {
	panic("not written yet")
}

func (d *Device) Rope(cos, sin device.Tensor, inverse bool, x device.Tensor) {
	panic("not written yet")
}

func (d *Device) SwiGLU(gate, up, y device.Tensor) { panic("not written yet") }

func (d *Device) SwiGLUBackward(gate, up, dy, dgate, dup device.Tensor) { panic("not written yet") }

func (d *Device) ReLU(x, y device.Tensor) { panic("not written yet") }

func (d *Device) ReLUBackward(y, dy, dx device.Tensor) { panic("not written yet") }

func (d *Device) CrossEntropy(logits device.Tensor, targets []int32, grad bool, losses device.Tensor) {
	panic("not written yet")
}
