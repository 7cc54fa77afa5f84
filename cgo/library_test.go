//go:build cuda

package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/device/devicetest"
)

// triangle is a Cholesky factor, with NaN above the diagonal: of a matrix of a condition of some 10⁶ where it is steep, a Gram matrix of
// half as many tokens with a damping of a millionth.
func triangle(t *testing.T, ref device.Device, n int, steep bool) []float64 {
	t.Helper()
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
	if steep {
		full := device.NewFrom(ref, steepMatrix(ref, n), n, n, device.F64)
		if !ref.Cholesky(full)[0] {
			t.Fatal("no Cholesky factor")
		}
		copy(l, device.DownloadSlice[float64](ref, full))
	}
	return l
}

// gramMatrix is α·xᵀx + λ·I of order n, x of so many rows.
func gramMatrix(ref device.Device, n, rows int, alpha, lambda float64) []float64 {
	a := device.AllocSym(ref, n, device.F64)
	ref.Gram(alpha, []device.Tensor{device.NewFrom(ref, normal(rows*n), rows, n, device.F64)}, 0, []device.Sym{a})
	full := ref.Alloc(n, n, device.F64)
	ref.Extract(a, nil, nil, full)
	ref.AddDiagonal(lambda, full)
	return device.DownloadSlice[float64](ref, full)
}

func steepMatrix(ref device.Device, n int) []float64 {
	return gramMatrix(ref, n, n/2, 2/float64(n), 1e-6)
}

func normal(n int) []float64 {
	r := rand.New(rand.NewPCG(9, uint64(n)))
	x := make([]float64, n)
	for i := range x {
		x[i] = r.NormFloat64()
	}
	return x
}

// What would be caught: blocks of a large triangle that are left out, taken twice or put together wrongly, where there are several
// of each size and the last of each is smaller; inverses of blocks that lose more digits than the system has to lose.
func TestTriangles(t *testing.T) {
	d, ref := gpu(t, Options{}), cpu.Open()
	defer ref.Close()
	d.triangleOrder = 0 // all are large
	orders, steep := []int{512, 1024, 1100, 1409}, 1101
	if isEmulated() {
		orders, steep = []int{16, 32, 35, 45}, 37
	}
	for _, n := range append(orders, steep) {
		l := [][]float64{triangle(t, ref, n, n == steep)}
		for what, solve := range triangular(l, []int{37}) {
			t.Run(fmt.Sprintf("%s, order %d", what, n), func(t *testing.T) {
				agree(t, n == steep, solve(d)[0], solve(ref)[0])
			})
		}
	}
}

// What would be caught: the same of triangles that are worked on side by side; one that is taken for another, or that the others in its list,
// or the parts that the list is cut into for want of memory, make a difference to.
func TestManyTriangles(t *testing.T) {
	d, ref := gpu(t, Options{}), cpu.Open()
	defer ref.Close()
	orders, sides, steep := []int{300, 0, 65, 1101, 1, 576, 1536, 64, 200, 2049}, []int{15, 1, 129, 37, 1, 0, 64, 1, 65, 3}, 1101
	d.scratchAtOnce = 32 << 20
	if isEmulated() { // two that are large, and a list in three parts
		orders, sides = []int{130, 0, 65, 201, 1, 140, 259, 64, 9, 271}, []int{15, 1, 70, 37, 1, 0, 3, 1, 65, 3}
		steep, d.triangleOrder, d.scratchAtOnce = 201, 260, 900<<10
	}
	var ls [][]float64
	for _, n := range orders {
		ls = append(ls, triangle(t, ref, n, n == steep))
	}
	alone := triangular(ls[:1], sides[:1])
	for what, solve := range triangular(ls, sides) {
		t.Run(what, func(t *testing.T) {
			got, want := solve(d), solve(ref)
			for i, n := range orders {
				agree(t, n == steep, got[i], want[i])
			}
			if one := alone[what](d)[0]; !slices.Equal(one, got[0]) {
				t.Error("alone the first has other bits")
			}
		})
	}
	t.Run("Cholesky", func(t *testing.T) {
		var as, alone []device.Tensor
		var wants []bool
		for i, n := range orders {
			a := lower(normal(n*n), n)
			for i := range n {
				a[i*n+i] = 2 * float64(n+1)
			}
			if n == steep {
				a = steepMatrix(ref, n)
			}
			if i%3 == 2 {
				a[n*n-1] = -1
			}
			wants = append(wants, i%3 != 2)
			as, alone = append(as, device.NewFrom(d, a, n, n, device.F64)), append(alone, device.NewFrom(d, a, n, n, device.F64))
		}
		d.scratchAtOnce = 200 << 10
		if ok := d.Cholesky(as...); !slices.Equal(ok, wants) {
			t.Errorf("ok is %v, want %v", ok, wants)
		}
		for i, a := range alone {
			before := lower(device.DownloadSlice[float64](d, a), orders[i])
			if ok := d.Cholesky(a)[0]; ok != wants[i] {
				t.Errorf("alone matrix %d is %v", i, ok)
			}
			if !wants[i] {
				continue
			}
			one := lower(device.DownloadSlice[float64](d, a), orders[i])
			if !slices.Equal(one, lower(device.DownloadSlice[float64](d, as[i]), orders[i])) {
				t.Errorf("alone matrix %d has another factor", i)
			}
			// The residual is small whatever the condition.
			product, l := ref.Alloc(orders[i], orders[i], device.F64), device.NewFrom(ref, one, orders[i], orders[i], device.F64)
			ref.Gemm(false, true, 1, l, l, 0, product)
			agree(t, false, lower(device.DownloadSlice[float64](ref, product), orders[i]), before)
		}
	})
}

// lower is a with zeros above the diagonal.
func lower(a []float64, n int) []float64 {
	a = slices.Clone(a)
	for i := range n {
		clear(a[i*n+i+1 : (i+1)*n])
	}
	return a
}

// triangular are the operations with Cholesky factors, on all of ls in one call, with so many right sides.
func triangular(ls [][]float64, sides []int) map[string]func(d device.Device) [][]float64 {
	call := func(shape func(n, m int) (int, int), f func(d device.Device, ls, bs []device.Tensor)) func(d device.Device) [][]float64 {
		return func(d device.Device) (results [][]float64) {
			var on, bs []device.Tensor
			for i, l := range ls {
				n := int(math.Sqrt(float64(len(l))))
				r, c := shape(n, sides[i])
				on, bs = append(on, device.NewFrom(d, l, n, n, device.F64)), append(bs, device.NewFrom(d, normal(r*c), r, c, device.F64))
			}
			f(d, on, bs)
			for _, b := range bs {
				results = append(results, device.DownloadSlice[float64](d, b))
			}
			d.Free(on...)
			d.Free(bs...)
			return results
		}
	}
	return map[string]func(d device.Device) [][]float64{
		"the diagonal of the inverse": call(func(n, _ int) (int, int) { return 1, n }, device.Device.CholeskyInverseDiag),
		"(l·lᵀ)⁻¹·b": call(func(n, m int) (int, int) { return n, m }, func(d device.Device, ls, bs []device.Tensor) {
			d.CholeskySolve(device.Left, ls, bs)
		}),
		"b·(l·lᵀ)⁻¹": call(func(n, m int) (int, int) { return m, n }, func(d device.Device, ls, bs []device.Tensor) {
			d.CholeskySolve(device.Right, ls, bs)
		}),
	}
}

// agree wants a small relative error, or one that a condition of some 10⁶ allows.
func agree(t *testing.T, steep bool, got, want []float64) {
	t.Helper()
	var e, size float64
	for i, w := range want {
		e += (got[i] - w) * (got[i] - w)
		size += w * w
	}
	limit := 1e-12
	if steep {
		limit = 1e-9
	}
	if e = math.Sqrt(e / max(size, math.SmallestNonzeroFloat64)); !(e < limit) {
		t.Errorf("the relative error is %.2g, at most %.2g is allowed", e, limit)
	} else if steep {
		t.Logf("the relative error is %.2g", e)
	}
}

// apart is a device that makes Linear by LinearApart.
type apart struct{ *Device }

func (d apart) Linear(x, w, b device.Tensor, beta float64, y device.Tensor) {
	d.LinearApart(x, w, b, beta, y)
}

// What would be caught: what Linear is set beside being something else, in shapes that Linear makes in another way.
func TestLinearApart(t *testing.T) {
	devicetest.Run(t, func(t *testing.T) device.Device { return apart{gpu(t, Options{})} }, devicetest.Options{Only: regexp.MustCompile("^Linear ")})
}

// What would be caught: blocks of a large matrix that are left out, taken twice or from another matrix; a last block that is taken for a
// whole one; what goes wrong in a later block and is not told of, or is told of another matrix; digits lost to inverses of blocks.
func TestLargeFactors(t *testing.T) {
	d, ref := gpu(t, Options{}), cpu.Open()
	defer ref.Close()
	orders := []int{2300, 100, 3100, 2200, 2200, 2049}
	if isEmulated() {
		orders = []int{600, 70, 530, 513, 513, 257}
		d.factorOrder, d.factorBlock = 64, 256
	}
	const steep, indefinite, nan = 2, 3, 4
	var want [][]float64
	var on []device.Tensor
	for i, n := range orders {
		a := gramMatrix(ref, n, 64, 1/float64(n), 1)
		if i == steep {
			a = steepMatrix(ref, n)
		}
		switch last := n*n - 1; i {
		case indefinite:
			a[last] = -1
		case nan:
			a[last-1] = math.NaN()
		}
		full := append([]float64(nil), a...)
		for r := range n {
			for c := r + 1; c < n; c++ {
				a[r*n+c] = math.NaN() // is not read
			}
		}
		want, on = append(want, full), append(on, device.NewFrom(d, a, n, n, device.F64))
	}
	ok := d.Cholesky(on...)
	for i, n := range orders {
		if ok[i] != (i != indefinite && i != nan) {
			t.Errorf("order %d, matrix %d: %v", n, i, ok[i])
		}
		if !ok[i] {
			continue
		}
		l := device.DownloadSlice[float64](d, on[i])
		for r := range n {
			clear(l[r*n+r+1 : (r+1)*n])
		}
		left, product := device.NewFrom(ref, l, n, n, device.F64), device.NewFrom(ref, want[i], n, n, device.F64)
		ref.Gemm(false, true, -1, left, left, 1, product)
		var sum, size float64
		for k, v := range device.DownloadSlice[float64](ref, product) {
			sum, size = sum+v*v, size+want[i][k]*want[i][k]
		}
		ref.Free(left, product)
		residual := math.Sqrt(sum / size)
		t.Logf("order %d: a − l·lᵀ is %.2g of a", n, residual)
		if !(residual < 1e-13) {
			t.Errorf("order %d: a − l·lᵀ is %.2g of a", n, residual)
		}
	}
	d.Free(on...)
}

// What would be caught: a list of large and small matrices whose results are mixed up; what is done with lists of large ones, with NaN and
// with matrices that are not definite.
func TestLargeAmongMany(t *testing.T) {
	devicetest.Run(t, func(t *testing.T) device.Device {
		d := gpu(t, Options{})
		d.factorOrder, d.factorBlock, d.triangleOrder = 64, 64, 64 // 2048 would take too long to emulate
		return d
	}, devicetest.Options{Only: regexp.MustCompile("^Cholesky(| of many|, not definite|Inverse.* of many|Solve .* of many, several right sides)$")})
}
