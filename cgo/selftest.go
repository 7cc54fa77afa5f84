//go:build cuda

package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// A GPU that computes wrong numbers – a wrong build for it, a driver that does not fit, a card that is broken – would prune a
// model to nothing without a word. So before anything else a device is given two small problems whose answers package cpu
// knows: the operation that runs most, and the one that most rests on libraries. Some milliseconds, beside what the libraries
// load when they are first used.

// selfTest is an error where the GPU's results are not those of the CPU.
func (d *Device) selfTest() error {
	ref := cpu.Open()
	defer ref.Close()
	for _, typ := range []device.Type{device.F32, device.BF16} {
		if err := d.agree(ref, "Gram of a 96×72 "+typ.String()+" matrix", 1e-5, func(d device.Device) device.Tensor { return testGram(d, typ) }); err != nil {
			return err
		}
	}
	return d.agree(ref, "solution of 150 equations by Cholesky", 1e-12, testCholesky)
}

// agree compares what a problem's answer is on this device and on the reference. limit is a relative error.
func (d *Device) agree(ref device.Device, what string, limit float64, problem func(device.Device) device.Tensor) error {
	got, want := answer(d, problem), answer(ref, problem)
	if d.err != nil {
		return d.err
	}
	var e, size float64
	for i, w := range want {
		e += (got[i] - w) * (got[i] - w)
		size += w * w
	}
	if e := math.Sqrt(e / size); !(e <= limit) {
		return &Unavailable{fmt.Sprintf("%s fails its self-test: the %s is wrong by %.1g of its size, at most %.0g is allowed; the GPU, its driver or this build is broken, and --device cpu does without them",
			d.name, what, e, limit)}
	}
	return nil
}

func answer(d device.Device, problem func(device.Device) device.Tensor) []float64 {
	x := problem(d)
	defer d.Free(x)
	return device.DownloadSlice[float64](d, x)
}

// testNumbers are the same at every call, and are bfloat16 numbers.
func testNumbers(n int) []float64 {
	r := rand.New(rand.NewPCG(1, 1))
	x := make([]float64, n)
	for i := range x {
		x[i] = float64(r.IntN(255)-127) / 64
	}
	return x
}

func testGram(d device.Device, t device.Type) device.Tensor {
	x := device.NewFrom(d, testNumbers(96*72), 96, 72, t)
	s := device.AllocSym(d, 73, t.Acc())
	d.Gram(1./96, []device.Tensor{x}, 0, []device.Sym{s})
	d.Free(x)
	return s.Packed
}

// testCholesky solves a·x = b for a = m·mᵀ + 150·I. A matrix that is said not to be positive definite gives NaN.
func testCholesky(d device.Device) device.Tensor {
	const n = 150 // several tiles of 64
	x := testNumbers(n * n)
	m := device.NewFrom(d, x, n, n, device.F64)
	for i := range x {
		x[i] = 0
		if i%(n+1) == 0 {
			x[i] = n
		}
	}
	a := device.NewFrom(d, x, n, n, device.F64)
	d.Gemm(false, true, 1, m, m, 1, a)
	if !d.Cholesky(a)[0] {
		for i := range x {
			x[i] = math.NaN()
		}
		device.UploadSlice(d, x, a)
	}
	d.CholeskySolve(device.Left, []device.Tensor{a}, []device.Tensor{m})
	d.Free(a)
	return m
}
