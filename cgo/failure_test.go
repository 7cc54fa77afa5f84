//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"gorgonia.org/cu"

	"surgeon/engine/device"
	"surgeon/engine/enginetest"
)

// emulated leaves a test out, aloud, on a real GPU: it needs one that can be told to misbehave.
func emulated(t *testing.T) {
	t.Helper()
	if !isEmulated() {
		t.Skip("needs the emulated device (make test-emu)")
	}
}

// What would be caught: a GPU that cannot be used and is opened all the same, or refused in other words.
func TestUnavailable(t *testing.T) {
	emulated(t)
	for _, c := range []struct {
		name, value string
		ordinal     int
		limit       int64
		want        string
	}{
		{"SURGEON_EMU_DEVICES", "0", 0, 0, "no GPU"},
		{"SURGEON_EMU_CAPABILITY", "75", 0, 0, "compute capability 7.5"},
		{"SURGEON_EMU_CAPABILITY", "89", 0, 0, "99 KiB of shared memory for a block of threads; 163 are needed"},
		{"SURGEON_EMU_DRIVER", "12040", 0, 0, "driver is for CUDA 12.4"},
		{"SURGEON_EMU_DEVICES", "1", 7, 0, "no cuda:7"},
		{"CUBLAS_EMULATE_DOUBLE_PRECISION", "1", 0, 0, "CUBLAS_EMULATE_DOUBLE_PRECISION is \"1\""},
		{"SURGEON_EMU_MEMORY", "4000000000", 0, 1 << 40, "--gpu-memory asks for 1024.00 GiB"},
		{"SURGEON_EMU_MEMORY", "4000000000", 0, 1 << 20, "MiB and more, and --gpu-memory gives it 1.0 MiB; give it more, or leave that out"},
		{"SURGEON_CUDA_CAPABILITY", "95", 0, 0, `SURGEON_CUDA_CAPABILITY is "95"`},
	} {
		t.Run(c.want, func(t *testing.T) {
			t.Setenv(c.name, c.value)
			d, err := open(c.ordinal, Options{MemoryLimit: c.limit})
			if err == nil {
				d.Close()
				t.Fatal("was opened")
			}
			var none *Unavailable
			if !errors.As(err, &none) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%T %q, want an Unavailable with %q", err, err, c.want)
			}
		})
	}
}

// What would be caught: memory of whole pages that is not counted against the limit; small blocks that take a page each.
func TestRounded(t *testing.T) {
	m := pool{granularity: granularity, page: page}
	for bytes, want := range map[int64]int64{0: 512, 1: 512, 512: 512, 513: 1024, 1 << 20: 1 << 20, 2<<20 - 1: 2 << 20, 2 << 20: 2 << 20, 2<<20 + 1: 4 << 20,
		4 * 4096 * 4097 / 2: 34 << 20} { // a factor of order 4096
		if got := m.rounded(bytes); got != want {
			t.Errorf("%d bytes take %d, want %d", bytes, got, want)
		}
		if planned := m.page.Of(bytes); planned > want || planned <= want-granularity && bytes > 0 { // the plan counts as the pool does, but for the ends of vectors
			t.Errorf("%d bytes take %d and are planned with %d", bytes, want, planned)
		}
	}
	m.granularity, m.page = 1, 0
	if got := m.rounded(2<<20 + 1); got != 2<<20+1 {
		t.Errorf("2 MiB and a byte take %d where sizes are exact", got)
	}
}

// What would be caught: an allocation beyond the limit that passes, that ends the process, or after which the device is not
// quiet; a limit that counts memory given back.
func TestOutOfMemory(t *testing.T) {
	d := gpu(t, Options{MemoryLimit: 64 << 20})
	for range 40 { // far more than the limit in all
		d.Free(d.Alloc(1, 5<<20, device.F32))
	}
	x := d.Alloc(1, 3<<20, device.F64)
	if err := d.Sync(); err != nil {
		t.Fatalf("24 MiB of 64: %v", err)
	}
	y := d.Alloc(1, 8<<20, device.F64)
	d.Zero(y)
	var full *OutOfMemory
	if err := d.Sync(); !errors.As(err, &full) || full.Asked != 64<<20 {
		t.Fatalf("64 MiB beside 24 of 64: %v", err)
	}
	d.Free(x, y)
	d.err = nil // so that Close has nothing to tell
}

// What would be caught: memory that other programs hold told as free, and a GPU that they have filled opened with less than none.
func TestMemoryElsewhere(t *testing.T) {
	emulated(t)
	t.Setenv("SURGEON_EMU_MEMORY", "200000000")
	d := gpu(t, Options{})
	free, _, err := cu.MemInfo()
	if err != nil {
		t.Fatal(err)
	}
	other, err := cu.MemAlloc(free - 10_000_000)
	if err != nil {
		t.Fatal(err)
	}
	defer cu.MemFree(other)
	x := d.Alloc(1, 5_000_000, device.F32)
	var full *OutOfMemory
	if err := d.Sync(); !errors.As(err, &full) || !full.Elsewhere || full.Limit-full.Used < 20_000_000 || !strings.Contains(err.Error(), "other programs hold the rest") {
		t.Errorf("20 MB of 10 that are free: %v", err)
	}
	d.Free(x)
	d.err = nil // so that Close has nothing to tell

	for _, c := range []struct {
		free, asked, want int64
		reason            string
	}{
		{5, 0, 5, ""}, {5, 5, 5, ""}, {5, 3, 3, ""},
		{5, 6, 0, "--gpu-memory asks for 0.00 GiB"},
		{-(300 << 20), 0, 0, "it has no memory left: other programs hold all but 0.71 GiB, which are for the driver; wait until other programs give memory back"},
		{0, 1 << 30, 0, "it has no memory left"},
	} {
		got, err := limitOf(c.free, c.asked)
		if got != c.want || (err == nil) != (c.reason == "") || err != nil && !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%d free, %d asked for: %d, %v", c.free, c.asked, got, err)
		}
	}
}

// What would be caught: a failure that is forgotten, or reported as another operation's, or that later calls run into.
func TestFailureIsSticky(t *testing.T) {
	emulated(t)
	d := gpu(t, Options{})
	x := device.NewFrom(d, []float32{1, 2, 3}, 1, 3, device.F32)
	y := d.Alloc(1, 3, device.F64)
	t.Setenv("SURGEON_EMU_FAIL_AT", "1")
	d.Copy(x, y)
	d.Zero(y)
	z := d.Alloc(4, 4, device.F64)
	d.Zero(z)
	dst := make([]byte, 24)
	d.Download(y, device.F64, dst)
	counts := make([]int64, 2)
	d.Histogram(z, 0, 0, counts)
	d.Compare(z, 0, make([]device.Order, 16))
	d.Smallest(1, 4, z, device.Tensor{}, make([]bool, 16))
	if counts[0]+counts[1] != 0 {
		t.Errorf("a device that has failed counts %v", counts)
	}
	var failed *Failure
	err := d.Sync()
	if !errors.As(err, &failed) || failed.Op != "Copy" || failed.Code != 719 {
		t.Fatalf("%v, want the failure of Copy", err)
	}
	if again := d.Sync(); again != err {
		t.Errorf("then %v", again)
	}
	d.err = nil
	d.Free(x, y)
}

// What would be caught: a shape that goes to cuBLASLt and should not, or does not and should; a product that it has no algorithm for and
// that is made in another way without a word, or a result that is taken for one.
func TestLinearWithoutAnAlgorithm(t *testing.T) {
	emulated(t)
	for _, c := range []struct {
		rows, cols int
		odd        int // the operand of x, w, b, y that begins an element later; none is 4
		typ        device.Type
		fused      bool
	}{
		{16, 8, 4, device.BF16, true}, {12, 8, 4, device.BF16, false}, {16, 12, 4, device.BF16, false}, {16, 0, 4, device.BF16, false},
		{16, 8, 0, device.BF16, false}, {16, 8, 1, device.BF16, false}, {16, 8, 2, device.BF16, false}, {16, 8, 3, device.BF16, false},
		{16, 8, 4, device.F32, false}, {16, 8, 4, device.F64, false},
	} {
		t.Run(fmt.Sprintf("%d×%d %s odd=%d", c.rows, c.cols, c.typ, c.odd), func(t *testing.T) {
			d := gpu(t, Options{})
			t.Setenv("SURGEON_EMU_LT", "0")
			var x [4]device.Tensor
			for i, shape := range [4][2]int{{3, c.cols}, {c.rows, c.cols}, {1, c.rows}, {3, c.rows}} {
				n, lead := shape[0]*shape[1], 0
				if i == c.odd {
					lead = 1
				}
				whole := d.Alloc(lead+n, 1, c.typ)
				d.Zero(whole)
				x[i] = whole.Slice(lead, lead+n).Reshape(shape[0], shape[1])
			}
			d.Linear(x[0], x[1], x[2], 0, x[3])
			err := d.Sync()
			if !c.fused {
				if err != nil {
					t.Error(err)
				}
				return
			}
			const want = "Linear failed: cuBLASLt has no algorithm for a product of this shape with a bias (code 30000)"
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
			d.err = nil // so that Close has nothing to tell
		})
	}
}

// What would be caught: a device that is lost in the middle of a run and takes the run with it.
func TestLostDevice(t *testing.T) {
	emulated(t)
	enginetest.LostDevice(t, func(t *testing.T) device.Device {
		d, err := open(0, Options{}) // not closed by the test's end: a lost device has an error to tell
		if err != nil {
			t.Fatal(err)
		}
		return d
	}, func(on bool) {
		if on {
			os.Setenv("SURGEON_EMU_FAIL_AT", "100")
		} else {
			os.Unsetenv("SURGEON_EMU_FAIL_AT")
		}
	})
}
