package devicetest_test

import (
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/device/devicetest"
)

func open(*testing.T) device.Device { return cpu.Open() }

// Would catch what only happens in float32 or bfloat16: lost digits, a conversion left out, an overflow.
func TestParity(t *testing.T) {
	devicetest.Run(t, open, devicetest.Options{Types: []device.Type{device.F32, device.BF16}})
}
