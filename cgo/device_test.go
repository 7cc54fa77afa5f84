//go:build cuda

package cuda

import (
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
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

// What would be caught: bits that are taken for the same with another cuBLAS or cuSOLVER.
func TestBits(t *testing.T) {
	if bits := gpu(t, Options{}).Bits(); !regexp.MustCompile(`^cuda .+, kernels for \d+\.\d, cuBLAS \d+, cuSOLVER \d+$`).MatchString(bits) {
		t.Errorf("%q does not name the libraries", bits)
	}
}

// What would be caught: with SURGEON_CUDA_EXACT, memory that compute-sanitizer takes for a tensor's and is not, behind its last
// element or after it was freed.
func TestExactMemory(t *testing.T) {
	t.Setenv("SURGEON_CUDA_EXACT", "1")
	d := gpu(t, Options{})
	before := d.Memory().Used
	x := d.Alloc(1, 3, device.BF16)
	if used := d.Memory().Used - before; used != 6 {
		t.Errorf("a tensor of 6 bytes holds %d", used)
	}
	d.Free(x)
	if d.memory.kept != 0 || len(d.memory.spare) != 0 {
		t.Errorf("%d bytes are kept that nobody owns", d.memory.kept)
	}
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

// What would be caught: a list that is written over by the other one of its operation, or by the next operation's, when the
// arena for lists is full or grows.
func TestLists(t *testing.T) {
	d := gpu(t, Options{})
	for _, n := range []int{arenaBytes/8 - 100, arenaBytes/8 - 100, arenaBytes / 4, 5} {
		x := make([]float32, n)
		cols := make([]int32, n)
		for i := range x {
			x[i], cols[i] = float32(i), int32(n-1-i)
		}
		a, b := device.NewFrom(d, x, 1, n, device.F32), d.Alloc(3, n, device.F32)
		d.Gather(a, []int32{0, 0, 0}, cols, b)
		for i, v := range device.DownloadSlice[float32](d, b) {
			if v != float32(n-1-i%n) {
				t.Fatalf("of %d elements number %d is %v", n, i, v)
			}
		}
		d.Free(a, b)
	}
}

// What would be caught: a debug switch that does not wait, or does not tell.
func TestSyncSwitch(t *testing.T) {
	t.Setenv("SURGEON_CUDA_SYNC", "1")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func(e *os.File) { os.Stderr = e }(os.Stderr)
	os.Stderr = w
	d := gpu(t, Options{})
	x, y := d.Alloc(1, 1000, device.F32), d.Alloc(1, 1000, device.F64)
	d.Zero(x)
	for range 3 {
		d.Copy(x, y)
	}
	d.Free(x, y)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	told, err := io.ReadAll(r)
	if err != nil || !regexp.MustCompile(`(?m)^Copy +3 +\d`).Match(told) || !strings.Contains(string(told), d.Name()) {
		t.Errorf("%v, told:\n%s", err, told)
	}
}

// What would be caught: any operation that differs from the definition of package cpu (see devicetest.Run).
func TestParity(t *testing.T) {
	devicetest.Run(t, onGPU, devicetest.Options{})
}

// What would be caught: an A100 that is given kernels of an H100, or more shared memory than it has; a fault of its own kernels.
func TestKernelsOfAnA100(t *testing.T) {
	t.Setenv("SURGEON_CUDA_CAPABILITY", "80")
	t.Setenv("SURGEON_EMU_CAPABILITY", "80")
	if bits := gpu(t, Options{}).Bits(); !strings.Contains(bits, "kernels for 8.0") {
		t.Errorf("%q does not tell that another GPU's kernels run", bits)
	}
	devicetest.Run(t, onGPU, devicetest.Options{Types: []device.Type{device.BF16}, Only: regexp.MustCompile("^(Gram ones=0 beta=0|Gram ones=1 beta=1|Gram of many beta=0.5|Attention|AttentionBackward)$")})
}

// What would be caught: a word that is taken for some capability, or a kernel that the GPU has no code for.
func TestCapabilityAsked(t *testing.T) {
	gpu(t, Options{})
	for _, asked := range []string{"9.0", "75", "999"} {
		t.Setenv("SURGEON_CUDA_CAPABILITY", asked)
		if d, err := open(0, Options{}); err == nil || !strings.Contains(err.Error(), `SURGEON_CUDA_CAPABILITY is "`+asked+`"`) {
			t.Errorf("%s: %v, %v", asked, d, err)
		}
	}
}

func onGPU(t *testing.T) device.Device { return gpu(t, Options{}) }

// See package enginetest.
func TestGoldenPasses(t *testing.T)          { enginetest.Passes(t, onGPU) }
func TestGoldenCostsAndUpdates(t *testing.T) { enginetest.CostsAndUpdates(t, onGPU) }
func TestGoldenWeights(t *testing.T)         { enginetest.WeightCostsAndUpdates(t, onGPU) }
func TestTwoShots(t *testing.T)              { enginetest.TwoShots(t, onGPU) }
func TestCurvatures(t *testing.T)            { enginetest.Curvatures(t, onGPU) }
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
