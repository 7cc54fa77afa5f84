package prune

import (
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"gonum.org/v1/gonum/mat"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/internal/golden"
)

// hadamard is the orthogonal and symmetric 4×4 matrix of elements ±½, with which eigenvalues that are powers of two make
// matrices without any rounding.
var hadamard = mat.NewDense(4, 4, []float64{.5, .5, .5, .5, .5, -.5, .5, -.5, .5, .5, -.5, -.5, .5, -.5, -.5, .5})

func withEigenvalues(v ...float64) *mat.Dense {
	var x mat.Dense
	x.Mul(hadamard, mat.NewDiagDense(4, v))
	x.Mul(&x, hadamard)
	return &x
}

// What would be caught: an inverse that loses more than the condition of a factor, by inverting one explicitly or squaring
// its condition, and eigenvalues of one side that meet those of the other in another order. Factors of condition 1e8 share
// eigenvectors, so that F'⁻¹ is known in closed form; F' itself has a condition of 1e16, too much for a dense inverse. The limit is
// 16·n·ε·1e8, the perturbation of the smallest eigenvalue of one factor.
func TestIllConditionedFactors(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	const limit = 16 * 4 * 0x1p-53 * 0x1p27
	g1, a1 := []float64{0x1p-9, 0x1p-27, 1, 0x1p-18}, []float64{0x1p-27, 1, 0x1p-14, 0x1p-3}
	g2, a2 := []float64{0x1p-3, 0, 0x1p-27, 1}, []float64{0x1p-20, 0x1p-5, 0, 1}
	w := []float64{1, -2, 3, -4, 5, 6, -7, 8, -9, 1, 2, 3, 4, -5, 6, 7}
	sym := func(v []float64) device.Sym { return packed(dev, withEigenvalues(v...), device.F64) }
	all := Kept{Rows: ones(4), Cols: ones(4)}
	for _, test := range []struct {
		name  string
		rest  []Term
		damp  Damping
		value func(i, j int) float64 // of F' for the i-th and j-th eigenvector
	}{
		{"two products", []Term{{G: sym(g2), A: sym(a2)}}, Damping{}, func(i, j int) float64 { return g1[i]*a1[j] + g2[i]*a2[j] }},
		{"joint", nil, Damping{G: 0x1p-20, A: 0x1p-20, Joint: true}, func(i, j int) float64 {
			return g1[i]*a1[j] + 0x1p-20*sum(g1)/4*sum(a1)/4
		}},
	} {
		l := Layer{Name: "layer", W: device.NewFrom(dev, w, 4, 4, device.F64), Term: Term{G: sym(g1), A: sym(a1)}, Rest: test.rest}
		diagonal, raised, err := fisherInverseDiagonal(dev, l, all, test.damp)
		if err != nil || raised != nil {
			t.Fatalf("%s: %v, raised %v", test.name, err, raised)
		}
		var want, rows []float64
		for r := range 4 {
			for c := range 4 {
				var x float64
				for i := range 4 {
					for j := range 4 {
						x += math.Pow(hadamard.At(r, i)*hadamard.At(c, j), 2) / test.value(i, j)
					}
				}
				want = append(want, x)
			}
			var cost float64 // all elements of the basis are ±½, so t_rj does not depend on r
			for j := range 4 {
				var u, x float64
				for c := range 4 {
					u += w[4*r+c] * hadamard.At(c, j)
				}
				for i := range 4 {
					x += 0.25 / test.value(i, j)
				}
				cost += u * u / x / 2
			}
			rows = append(rows, cost)
		}
		for k, got := range device.DownloadSlice[float64](dev, diagonal) {
			if e := math.Abs(got-want[k]) / want[k]; !(e < limit) {
				t.Errorf("%s: element %d is %v, want %v, off by %.2g, limit %.2g", test.name, k, got, want[k], e, limit)
			}
		}
		costs, _, err := costsOne(dev, l, all, OBS, test.damp)
		if err != nil {
			t.Fatal(err)
		}
		for r, got := range costs.Rows {
			if e := math.Abs(got-rows[r]) / rows[r]; !(e < limit) {
				t.Errorf("%s: row %d costs %v, want %v, off by %.2g, limit %.2g", test.name, r, got, rows[r], e, limit)
			}
			kept := Kept{Rows: ones(4), Cols: ones(4)}
			kept.Rows[r] = false
			removed := make([]bool, 16)
			for c := range 4 {
				removed[4*r+c] = true
			}
			step, err := applyOne(dev, l, all, kept, Joint, test.damp, 0)
			if err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			single, err := ApplyElements(dev, l, all, removed, Joint, test.damp, Grouping{})
			if err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			t.Logf("%s: row %d took %d steps, as single weights %d", test.name, r, step.Iterations, single.Iterations)
			p := sumProblem{problem: problem{r: 4, c: 4, w: mat.NewDense(4, 4, w)}, alive: all, damp: test.damp,
				gs: []*mat.Dense{withEigenvalues(g1...)}, as: []*mat.Dense{withEigenvalues(a1...)}}
			if test.rest != nil {
				p.gs, p.as = append(p.gs, withEigenvalues(g2...)), append(p.as, withEigenvalues(a2...))
			}
			for _, result := range []Result{step, single} {
				got := device.DownloadSlice[float64](dev, result.W)
				if residual := p.residual(got, func(i, _ int) bool { return i == r }); !(residual < 20*residualLimit) {
					t.Errorf("%s: row %d: residual %.3g of the right side", test.name, r, residual)
				}
			}
			if test.rest == nil { // damped, and so not comparable with an undamped prediction
				continue
			}
			for _, predicted := range []float64{step.Predicted, single.Predicted} {
				if e := math.Abs(predicted-rows[r]) / rows[r]; !(e < limit) {
					t.Errorf("%s: row %d is predicted to cost %v, want %v, off by %.2g, limit %.2g", test.name, r, predicted, rows[r], e, limit)
				}
			}
		}
	}
}

// What would be caught: rounding of a float32 factor that stops a run, a factor that is truly indefinite and passes, a
// sentence without layer and factor; a rank or damping that is not there and gives numbers; NaN that becomes one; joint damping
// that stays too small for a singular product; memory that is not given back.
func TestSumsThatFail(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	w := device.NewFrom(dev, []float64{1, -2, 3, -4, 5, 6, -7, 8, -9, 1, 2, 3, 4, -5, 6, 7}, 4, 4, device.F64)
	all, kept := Kept{Rows: ones(4), Cols: ones(4)}, Kept{Rows: []bool{true, true, false, true}, Cols: ones(4)}
	sym := func(v ...float64) device.Sym { return packed(dev, withEigenvalues(v...), device.F64) }
	in32 := func(v ...float64) device.Sym { return packed(dev, withEigenvalues(v...), device.F32) }
	good := Term{G: sym(1, 2, 3, 4), A: sym(4, 1, 2, 3)}
	damp := Damping{G: 0.01, A: 0.01}
	joint := Damping{G: 0.01, A: 0.01, Joint: true}
	nan := device.AllocSym(dev, 4, device.F64)
	device.UploadSlice(dev, []float64{1, 0, 1, 0, math.NaN(), 1, 0, 0, 0, 1}, nan.Packed)
	var notPositive *NotPositiveDefinite
	for _, test := range []struct {
		name   string
		layer  Layer
		damp   Damping
		costs  string // of the error of Costs, empty for none
		update string // of the error of Apply
	}{
		{"rounding of float32", Layer{Term: good, Rest: []Term{{G: in32(1, 2, 3, -1e-7), A: good.A}}}, damp, "", ""},
		{"indefinite beyond float64's rounding", Layer{Term: good, Rest: []Term{{G: sym(1, 2, 3, -1e-7), A: good.A}}}, damp,
			"layer blocks.0: the factor G of product 2 is not positive semi-definite", ""},
		{"indefinite", Layer{Term: good, Rest: []Term{{G: good.G, A: in32(1, 2, 3, -1)}}}, damp,
			"layer blocks.0: the factor A of product 2 is not positive semi-definite", "layer blocks.0: the factor A of product 2 is not positive semi-definite"},
		{"three products, one indefinite", Layer{Term: good, Rest: []Term{good, {G: good.G, A: sym(1, 2, 3, -100)}}}, damp,
			"layer blocks.0: a sum of 3 products has no exact inverse", "layer blocks.0: the curvature is not positive definite"},
		{"three products", Layer{Term: good, Rest: []Term{good, good}}, damp, "layer blocks.0: a sum of 3 products has no exact inverse", ""},
		{"two products and joint damping", Layer{Term: good, Rest: []Term{good}}, joint,
			"layer blocks.0: a sum of 2 products cannot be damped jointly", "a sum of 2 products cannot be damped jointly"},
		{"NaN in the second product", Layer{Term: good, Rest: []Term{{G: nan, A: good.A}}}, damp, "the factor G has no eigenvalues", "or not finite"},
		{"NaN in the first product", Layer{Term: Term{G: nan, A: good.A}, Rest: []Term{good}}, damp, "the factor G is not positive definite", "or not finite"},
		{"NaN and joint damping", Layer{Term: Term{G: good.G, A: nan}}, joint, "the factor A has no eigenvalues", "the factor A has no eigenvalues"},
		{"no damping within reach", Layer{Term: Term{G: sym(-1e6, 1e6, -1e6, 1e6+1e-3), A: good.A}}, joint,
			"layer blocks.0: the factor F is not positive definite", "the factor F is not positive definite"},
	} {
		test.layer.Name, test.layer.W = "blocks.0", w
		matches := func(what string, err error, want string) {
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %s: %v, want %q", test.name, what, err, want)
			}
			if err != nil && strings.Contains(want, "the factor F") && !errors.As(err, &notPositive) {
				t.Errorf("%s: %s: %T", test.name, what, err)
			}
		}
		used := dev.Memory().Used
		_, _, err := costsOne(dev, test.layer, all, OBS, test.damp)
		matches("costs", err, test.costs)
		elements, _, err := costElementsOne(dev, test.layer, all, OBS, test.damp)
		matches("element costs", err, test.costs)
		for _, how := range []Update{Joint, Sum} {
			result, err := applyOne(dev, test.layer, all, kept, how, test.damp, 0)
			matches("update", err, test.update)
			dev.Free(result.W)
		}
		single, _ := ApplyElements(dev, test.layer, all, make([]bool, 16), Joint, test.damp, Grouping{})
		elements.Free(dev)
		dev.Free(single.W)
		if now := dev.Memory().Used; now != used {
			t.Errorf("%s: %d bytes are held, %d were before", test.name, now, used)
		}
	}

	// An eigenvalue of −2⁻²⁰ that float32's rounding explains becomes 0, however large the other side makes it.
	var inverses [2][]float64
	for k, eigenvalue := range []float64{-0x1p-20, 0} {
		l := Layer{Name: "layer", W: w, Term: good, Rest: []Term{{G: in32(1, 2, 4, eigenvalue), A: sym(0x1p20, 0x1p21, 0x1p22, 0)}}}
		x, _, err := fisherInverseDiagonal(dev, l, all, damp)
		if err != nil {
			t.Fatal(err)
		}
		inverses[k] = device.DownloadSlice[float64](dev, x)
	}
	golden.Near(t, "inverse with an eigenvalue that became 0", inverses[0], inverses[1], 1e-9)

	singular := Layer{Name: "layer", W: w, Term: Term{G: sym(0, 1, 2, 3), A: good.A}}
	_, raised, err := costsOne(dev, singular, all, OBS, Damping{Joint: true})
	if err != nil || len(raised) != 1 || raised[0].Factor != "F" || raised[0].Share != 1e-8 {
		t.Errorf("singular without damping: raised %v, %v", raised, err)
	}
}

// lostDevice fails with its n-th Gemm, of which nothing comes back then.
type lostDevice struct {
	device.Device
	left    int
	failure error
}

var errLost = errors.New("Gemm: error 719, the device is lost")

func (d *lostDevice) Gemm(transA, transB bool, alpha float64, a, b device.Tensor, beta float64, c device.Tensor) {
	if d.left--; d.left < 0 {
		d.failure = errLost
		d.Device.Copy(fill(d.Device, c.Rows, c.Cols, math.NaN()), c)
		return
	}
	d.Device.Gemm(transA, transB, alpha, a, b, beta, c)
}

func (d *lostDevice) Sync() error { return d.failure }

// What would be caught: a device that fails in the middle, whose numbers are then told as a fault of the factors.
func TestDeviceFailureInSums(t *testing.T) {
	for products := 1; products <= 3; products++ {
		for left := range 30 {
			dev := &lostDevice{Device: cpu.Open(), left: left}
			p := layerWithSpectrum(dev, rand.New(rand.NewPCG(26, 0)), 5, 6, []float64{1, 0.3, 0.1}[:products]...)
			kept := Kept{Rows: ones(5), Cols: ones(6)}
			kept.Rows[2], kept.Cols[1] = false, false
			_, err := applyOne(dev, p.layer, p.alive, kept, Joint, Damping{G: 0.01, A: 0.01, Joint: products == 1}, 0)
			if dev.failure != nil && !errors.Is(err, errLost) {
				t.Errorf("%d products, lost after %d products of matrices: %v", products, left, err)
			}
			dev.Close()
		}
	}
}
