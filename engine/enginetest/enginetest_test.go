package enginetest

import (
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// What would be caught: a suite that cannot pass where both sides are the same device.
func TestRunsOnCPU(t *testing.T) {
	Runs(t, func(*testing.T) device.Device { return cpu.Open() })
}

// What would be caught: the same.
func TestCurvaturesOnCPU(t *testing.T) {
	Curvatures(t, func(*testing.T) device.Device { return cpu.Open() })
}

// What would be caught: a suite that does not reproduce its own run.
func TestRealRunOnCPU(t *testing.T) {
	RealRun(t, func(*testing.T) device.Device { return cpu.Open() }, "float32")
}
