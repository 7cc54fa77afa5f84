package bench

import (
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/device/devicetest"
)

// BenchmarkOperation is every operation of the device that has shapes for it, from the table of the parity suite. The Gemm
// rows are the ceiling of the others.
func BenchmarkOperation(b *testing.B) {
	dev := cpu.Open()
	defer dev.Close()
	devicetest.Bench(b, dev, device.F32)
}
