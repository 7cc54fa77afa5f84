//go:build cuda

package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// What would be caught: blocks of a triangle that are left out, taken twice or put together wrongly, where there are several
// of each size and the last of each is smaller; inverses of blocks that lose more digits than the system has to lose.
func TestTriangles(t *testing.T) {
	d, ref := gpu(t, Options{}), cpu.Open()
	defer ref.Close()
	orders, steep := []int{512, 1024, 1100, 1409}, 1101
	if isEmulated() {
		orders, steep = []int{16, 32, 35, 45}, 37
	}
	for _, n := range append(orders, steep) {
		r := rand.New(rand.NewPCG(9, uint64(n)))
		l := make([]float64, n*n)
		for i := range n {
			for j := range n {
				switch {
				case j > i:
					l[i*n+j] = math.NaN() // is not read
				case j == i:
					l[i*n+j] = 1 + r.Float64()
				default:
					l[i*n+j] = r.NormFloat64() / math.Sqrt(float64(n))
				}
			}
		}
		limit := 1e-12
		if n == steep { // the factor of a Gram matrix of half as many tokens, with a damping of a millionth: a condition of some 10⁶
			x := make([]float64, n/2*n)
			for i := range x {
				x[i] = r.NormFloat64()
			}
			a := device.AllocSym(ref, n, device.F64)
			ref.Gram(2/float64(n), []device.Tensor{device.NewFrom(ref, x, n/2, n, device.F64)}, 0, []device.Sym{a})
			full := ref.Alloc(n, n, device.F64)
			ref.Extract(a, nil, nil, full)
			ref.AddDiagonal(1e-6, full)
			if !ref.Cholesky(full)[0] {
				t.Fatal("no Cholesky factor")
			}
			copy(l, device.DownloadSlice[float64](ref, full))
			limit = 1e-9
		}
		const m = 37
		b := make([]float64, m*n)
		for i := range b {
			b[i] = r.NormFloat64()
		}
		for what, solve := range map[string]func(d device.Device) device.Tensor{
			"the diagonal of the inverse": func(d device.Device) device.Tensor {
				diag := d.Alloc(1, n, device.F64)
				d.CholeskyInverseDiag([]device.Tensor{device.NewFrom(d, l, n, n, device.F64)}, []device.Tensor{diag})
				return diag
			},
			"(l·lᵀ)⁻¹·b": func(d device.Device) device.Tensor {
				x := device.NewFrom(d, b, n, m, device.F64)
				d.CholeskySolve(device.Left, []device.Tensor{device.NewFrom(d, l, n, n, device.F64)}, []device.Tensor{x})
				return x
			},
			"b·(l·lᵀ)⁻¹": func(d device.Device) device.Tensor {
				x := device.NewFrom(d, b, m, n, device.F64)
				d.CholeskySolve(device.Right, []device.Tensor{device.NewFrom(d, l, n, n, device.F64)}, []device.Tensor{x})
				return x
			},
		} {
			t.Run(fmt.Sprintf("%s, order %d", what, n), func(t *testing.T) {
				got, want := device.DownloadSlice[float64](d, solve(d)), device.DownloadSlice[float64](ref, solve(ref))
				var e, size float64
				for i, w := range want {
					e += (got[i] - w) * (got[i] - w)
					size += w * w
				}
				if e := math.Sqrt(e / size); !(e < limit) {
					t.Errorf("the relative error is %.2g", e)
				} else if n == steep {
					t.Logf("the relative error is %.2g", e)
				}
			})
		}
	}
}
