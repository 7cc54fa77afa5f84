//go:build cuda

package cuda

import (
	"errors"
	"math"
	"strings"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// What would be caught: a self-test that refuses a good GPU, or lets a wrong result or a NaN pass. The other tests open
// without it, so that they are what finds a fault.
func TestSelfTest(t *testing.T) {
	d := gpu(t, Options{})
	if err := d.selfTest(); err != nil {
		t.Error(err)
	}
	ref := cpu.Open()
	for _, c := range []struct {
		name string
		off  float64
	}{{"right", 0}, {"a little wrong", 1e-9}, {"NaN", math.NaN()}} {
		err := d.agree(ref, "identity", 1e-12, func(on device.Device) device.Tensor {
			x := []float64{1, 2, 3}
			if on == device.Device(d) {
				x[1] += c.off
			}
			return device.NewFrom(on, x, 1, 3, device.F64)
		})
		var refused *Unavailable
		if c.off == 0 {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		} else if !errors.As(err, &refused) || !strings.Contains(err.Error(), "fails its self-test: the identity is wrong by") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
