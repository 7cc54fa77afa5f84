//go:build cuda

package cuda

import "surgeon/engine/device"

func (d *Device) Gather(x device.Tensor, rows, cols []int32, y device.Tensor) {
	panic("not written yet")
}

func (d *Device) Scatter(x device.Tensor, rows, cols []int32, y device.Tensor) {
	panic("not written yet")
}

func (d *Device) Extract(s device.Sym, rows, cols []int32, y device.Tensor) { panic("not written yet") }

func (d *Device) AddDiagonal(lambda float64, a device.Tensor) { panic("not written yet") }

func (d *Device) Diagonal(s device.Sym, dst []float64) { panic("not written yet") }

func (d *Device) WatchFinite(tag int, s device.Sym) { panic("not written yet") }

func (d *Device) FirstNonFinite() (tag int, found bool) { panic("not written yet") }
