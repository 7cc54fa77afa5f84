package bench

import (
	"fmt"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// BenchmarkOperation is every operation of the device at the shapes that are not too large for this machine. ns/op is of the
// fastest round; see Row.
func BenchmarkOperation(b *testing.B) {
	dev := cpu.Open()
	defer dev.Close()
	c := NewCeilings(dev)
	left := 0
	for _, x := range (OpsOptions{Type: device.F32}).Select() {
		b.Run(x.Name(), func(b *testing.B) {
			if why := c.tooLarge(x); why != "" {
				left++
				b.Skip(why)
			}
			t, err := c.start(x)
			if err != nil {
				b.Fatal(err)
			}
			defer t.free()
			for b.Loop() {
				if err := t.round(); err != nil {
					b.Fatal(err)
				}
			}
			row, err := t.finish()
			if err != nil {
				b.Fatal(err)
			}
			for _, m := range row.metrics() {
				b.ReportMetric(m.value, m.unit)
			}
		})
	}
	if left > 0 {
		fmt.Printf("# %d calls are too large for this device and were left out; -v says which, and why\n", left)
	}
}
