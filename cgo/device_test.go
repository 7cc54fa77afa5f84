//go:build cuda

package cuda

import (
	"errors"
	"os"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/devicetest"
	"surgeon/engine/enginetest"
)

// gpu opens a GPU with these options. Without one the test is left out aloud, or fails where REQUIRE_CUDA is set.
func gpu(t testing.TB, o Options) *Device {
	t.Helper()
	d, err := open(0, o)
	var none *Unavailable
	if errors.As(err, &none) && os.Getenv("REQUIRE_CUDA") == "" {
		t.Skipf("not tested on a GPU: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// What would be caught: a byte lost at the edge of a pinned buffer, a slot used before it is free, a wrong conversion.
func TestTransfers(t *testing.T) {
	d := gpu(t, Options{})
	n := 3*slotBytes/4 + 17
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(i)
	}
	for _, typ := range []device.Type{device.F32, device.F64} {
		y := device.NewFrom(d, x, 1, n, typ)
		for i, v := range device.DownloadSlice[float32](d, y) {
			if v != x[i] {
				t.Fatalf("as %s element %d is %v, want %v", typ, i, v, x[i])
			}
		}
		d.Free(y)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
}

// What would be caught: any operation that differs from the definition of package cpu (see devicetest.Run).
func TestParity(t *testing.T) {
	devicetest.Run(t, onGPU, devicetest.Options{})
}

func onGPU(t *testing.T) device.Device { return gpu(t, Options{}) }

// See package enginetest.
func TestGoldenPasses(t *testing.T)          { enginetest.Passes(t, onGPU) }
func TestGoldenCostsAndUpdates(t *testing.T) { enginetest.CostsAndUpdates(t, onGPU) }
func TestTwoShots(t *testing.T)              { enginetest.TwoShots(t, onGPU) }
func TestRuns(t *testing.T)                  { enginetest.Runs(t, onGPU) }

// On the emulated device the real model would take days.
func TestSmolLM2(t *testing.T) {
	if isEmulated() {
		t.Skip("the real model needs a real GPU")
	}
	enginetest.RealRun(t, onGPU, "float32")
}

func TestSmolLM2BFloat16(t *testing.T) {
	if isEmulated() {
		t.Skip("the real model needs a real GPU")
	}
	enginetest.RealRun(t, onGPU, "bfloat16")
}
