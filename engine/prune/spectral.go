package prune

import (
	"fmt"
	"math"
	"slices"

	"surgeon/engine/device"
)

// spectral is an exact inverse of F' over rows × cols of a layer, in a basis in which both of its parts are diagonal:
//
//	(F'/unit)⁻¹ = (K₁ ⊗ K₂) diag(T) (K₁ ⊗ K₂)ᵀ,  T_ij = 1/(α + s_i·t_j)
//
// unit is the first product's (product.unit); an update does not depend on it. With F' and G and A for what they are over their units:
//
// One product with joint damping, F' = G ⊗ A + λI. With G = E_G diag(s) E_Gᵀ and A = E_A diag(t) E_Aᵀ: K₁ = E_G, K₂ = E_A, α = λ.
//
// Two products, F' = G₁' ⊗ A₁' + G₂ ⊗ A₂. With G₁' = L Lᵀ and the eigenvectors E and eigenvalues s of L⁻¹ G₂ L⁻ᵀ, K₁ = L⁻ᵀE makes
// K₁ᵀG₁'K₁ = I and K₁ᵀG₂K₁ = diag(s); so for A with K₂ and t, and (K₁ ⊗ K₂)ᵀ F' (K₁ ⊗ K₂) = I + diag(s) ⊗ diag(t): α = 1. (The
// Kronecker-factored form of the generalised symmetric eigenproblem; Golub and Van Loan, Matrix Computations, 8.7.)
//
// No basis does that for three products. K⁻ᵀ is E, or L·E: it is kept beside K, and never made by inverting.
type spectral struct {
	rows, cols basis
	alpha      float64
	unit       float64       // of an exact inverse
	diagonal   device.Tensor // R×C, what stands for α + s_i·t_j where F' is not diagonal in the basis (newMean)
	raised     []Raised
}

// basis is one side of a spectral inverse. A zero K is the identity.
type basis struct {
	k, back device.Tensor // n×n, K and K⁻ᵀ; the same tensor where K is orthogonal
	values  device.Tensor // 1×n, s or t
}

// newSpectral makes the inverse over the positions rows × cols, which are alive; products are those of the layer.
func newSpectral(d device.Device, l Layer, products []product, rows, cols []int32, damp Damping) (*spectral, error) {
	if err := l.refuse(damp); err != nil {
		return nil, err
	}
	first := products[0]
	if damp.Joint {
		return jointSpectral(d, l.Name, first, rows, cols, damp)
	}
	if len(products) != 2 {
		return nil, fmt.Errorf("layer %s: a sum of %d products has no exact inverse, which the cost obs needs; ask for at most 2 products, or for the cost obd",
			l.Name, len(products))
	}
	r, err := relativeBasis(d, first.g, products[1].g, rows)
	if err != nil {
		return nil, err
	}
	c, err := relativeBasis(d, first.a, products[1].a, cols)
	if err != nil {
		r.free(d)
		return nil, err
	}
	return &spectral{rows: r, cols: c, alpha: 1, unit: first.unit(), raised: append(first.g.raised(), first.a.raised()...)}, nil
}

// refuse tells which dampings are not there.
func (l Layer) refuse(damp Damping) error {
	if damp.Joint && len(l.Rest) > 0 {
		return fmt.Errorf("layer %s: a sum of %d products cannot be damped jointly; damp the factors of its first product, or ask for 1 product",
			l.Name, 1+len(l.Rest))
	}
	return nil
}

func (s *spectral) free(d device.Device) {
	s.rows.free(d)
	s.cols.free(d)
	d.Free(s.diagonal)
}

func (b basis) free(d device.Device) {
	d.Free(b.k, b.values)
	if b.back != b.k {
		d.Free(b.back)
	}
}

// solve is x ← (F'/unit)⁻¹x for an R×C matrix: four products around a division.
func (s *spectral) solve(d device.Device, x device.Tensor) {
	y := d.Alloc(x.Rows, x.Cols, device.F64)
	defer d.Free(y)
	around(d, true, s.rows.k, s.cols.k, x, y)
	s.divide(d, x)
	around(d, false, s.rows.k, s.cols.k, x, y)
}

// divide is x ← x∘T.
func (s *spectral) divide(d device.Device, x device.Tensor) {
	if s.diagonal.IsZero() {
		d.DivideOuter(s.alpha, s.rows.values, s.cols.values, x)
	} else {
		d.Divide(x, s.diagonal, x)
	}
}

// rounded is fx ← (F'/unit)⁻¹x by products in float32, and what gives back its memory.
func (s *spectral) rounded(d device.Device) (solve func(x, fx device.Tensor), free func()) {
	r, c := s.rows.values.Cols, s.cols.values.Cols
	left, right, a, b := narrowed(d, s.rows.k), narrowed(d, s.cols.k), d.Alloc(r, c, device.F32), d.Alloc(r, c, device.F32)
	solve = func(x, fx device.Tensor) {
		d.Copy(x, a)
		around(d, true, left, right, a, b)
		d.Copy(a, fx)
		s.divide(d, fx)
		d.Copy(fx, a)
		around(d, false, left, right, a, b)
		d.Copy(a, fx)
	}
	return solve, func() { d.Free(left, right, a, b) }
}

// around is x ← K₁ᵀ x K₂ if transposed, else x ← K₁ x K₂ᵀ; y is to work in.
func around(d device.Device, transposed bool, k1, k2, x, y device.Tensor) {
	if k1.IsZero() {
		d.Copy(x, y)
	} else {
		d.Gemm(transposed, false, 1, k1, x, 0, y)
	}
	if k2.IsZero() {
		d.Copy(y, x)
	} else {
		d.Gemm(false, !transposed, 1, y, k2, 0, x)
	}
}

// jointSpectral raises λ tenfold where F' is not positive definite beyond rounding, as factor.cholesky does.
func jointSpectral(d device.Device, layer string, p product, rows, cols []int32, damp Damping) (*spectral, error) {
	r, s, err := eigenBasis(d, p.g, rows)
	if err != nil {
		return nil, err
	}
	c, t, err := eigenBasis(d, p.a, cols)
	if err != nil {
		r.free(d)
		return nil, err
	}
	corners := []float64{s[0] * t[0], s[0] * t[len(t)-1], s[len(s)-1] * t[0], s[len(s)-1] * t[len(t)-1]}
	least, most := slices.Min(corners), slices.Max(corners)
	asked := math.Sqrt(damp.G * damp.A)
	share, mean := asked, p.g.mean*p.a.mean
	for range maxRaises + 1 {
		// The eigenvalues of G and A are known to about n·ε of the largest, which is what a Cholesky factorisation asks for.
		if lambda := share * mean; least+lambda > float64(len(s)+len(t))*epsilon*(most+lambda) {
			out := &spectral{rows: r, cols: c, alpha: lambda / p.unit(), unit: p.unit()}
			r.rescale(d, s, p.g.unit())
			c.rescale(d, t, p.a.unit())
			if share != asked {
				out.raised = []Raised{{Layer: layer, Factor: "F", Share: share}}
			}
			return out, nil
		}
		share = max(share*10, 1e-8)
	}
	r.free(d)
	c.free(d)
	if err := d.Sync(); err != nil {
		return nil, fmt.Errorf("layer %s: %w", layer, err)
	}
	return nil, &NotPositiveDefinite{Raised{Layer: layer, Factor: "F", Share: share / 10}}
}

// eigenBasis is the basis of a factor's eigenvectors, and its eigenvalues in ascending order.
func eigenBasis(d device.Device, f *factor, idx []int32) (basis, []float64, error) {
	if f.identity() {
		return unitBasis(d, len(idx))
	}
	x := f.square(d, idx)
	defer d.Free(x)
	return eigh(d, f, x)
}

func eigh(d device.Device, f *factor, x device.Tensor) (basis, []float64, error) {
	b := basis{k: d.Alloc(x.Rows, x.Rows, device.F64), values: d.Alloc(1, x.Rows, device.F64)}
	b.back = b.k
	if !d.Eigh(false, []device.Tensor{x}, []device.Tensor{b.values}, []device.Tensor{b.k})[0] {
		b.free(d)
		if err := d.Sync(); err != nil {
			return basis{}, nil, fmt.Errorf("layer %s, factor %s: %w", f.layer, f.name, err)
		}
		return basis{}, nil, fmt.Errorf("layer %s: the factor %s has no eigenvalues; it is not finite", f.layer, f.name)
	}
	return b, device.DownloadSlice[float64](d, b.values), nil
}

// rescale makes values, which are w, w over unit.
func (b basis) rescale(d device.Device, w []float64, unit float64) {
	for i := range w {
		w[i] /= unit
	}
	device.UploadSlice(d, w, b.values)
}

// unitBasis is the basis of the identity.
func unitBasis(d device.Device, n int) (basis, []float64, error) {
	b := basis{values: fill(d, 1, n, 1)}
	return b, device.DownloadSlice[float64](d, b.values), nil
}

const (
	epsilon = 0x1p-53 // of float64
	// roundings is how many roundings of its type an element of a Gram matrix may be off by: √N for sums over N = 4096 tokens.
	roundings = 64
)

// relativeBasis is K with KᵀX'K = unit·I and KᵀYK = unit·diag(values) for the factors X' of the first product and Y of the second;
// unit is that of X.
//
// Y is positive semi-definite, so values are not negative but for rounding, and become 0 where that explains it. A value is
// k_iᵀYk_i/unit for column i of K, so that
//
//   - an error of u·roundings of Y's elements, u the rounding of the type it is stored in, moves it by at most
//     roundings·u·‖Y‖_F·|k_i|²/unit;
//   - the rounding of two solves, two products and Eigh moves it by at most c·n·ε·cond(L)·max|values|, with cond(L)² =
//     cond(X') ≤ tr(X')·tr(X'⁻¹) = ‖L‖_F²·‖K‖_F²/unit and c = 16 for the constants of five such steps.
//
// Below the sum of both it is an error. FLOP: 9·n³ of Eigh and n³/3 + 12·n³ around it.
func relativeBasis(d device.Device, x, y *factor, idx []int32) (basis, error) {
	n := len(idx)
	if x.identity() && y.identity() {
		b, _, err := unitBasis(d, n)
		return b, err
	}
	m := y.square(d, idx)
	if y.identity() {
		m = d.Alloc(n, n, device.F64)
		d.Zero(m)
		d.AddDiagonal(1, m)
	}
	defer func() { d.Free(m) }()
	norm := math.Sqrt(sum(columnNorms(d, m)))
	l, err := x.cholesky(d, idx)
	if err != nil {
		return basis{}, err
	}
	defer func() { d.Free(l) }()
	traceL := float64(n)
	if !l.IsZero() { // m ← L⁻¹ Y L⁻ᵀ = Lᵀ (LLᵀ)⁻¹ Y (LLᵀ)⁻¹ L
		d.CholeskySolve(device.Left, []device.Tensor{l}, []device.Tensor{m})
		d.CholeskySolve(device.Right, []device.Tensor{l}, []device.Tensor{m})
		clearUpper(d, l)
		half := d.Alloc(n, n, device.F64)
		d.Gemm(true, false, 1, l, m, 0, half)
		d.Gemm(false, false, 1, half, l, 0, m)
		d.Free(half)
		traceL = sum(columnNorms(d, l))
	}
	b, values, err := eigh(d, y, m)
	if err != nil {
		return basis{}, err
	}
	d.Free(m) // the last solve wants room
	m = device.Tensor{}
	unit := x.unit()
	if !l.IsZero() { // with √unit = 1, K⁻ᵀ = L E, K = L⁻ᵀE = (LLᵀ)⁻¹ L E
		e := b.k
		b.back, b.k = d.Alloc(n, n, device.F64), d.Alloc(n, n, device.F64)
		d.Gemm(false, false, 1/math.Sqrt(unit), l, e, 0, b.back)
		d.Free(e)
		d.Zero(b.k)
		d.Axpy(unit, b.back, b.k)
		d.CholeskySolve(device.Left, []device.Tensor{l}, []device.Tensor{b.k})
	}
	norms := columnNorms(d, b.k)
	rounding := epsilon
	if !y.identity() && y.sym.Packed.Type == device.F32 {
		rounding = 0x1p-24
	}
	arithmetic := 16 * float64(n) * epsilon * math.Sqrt(traceL*sum(norms)/unit) * max(-values[0], values[n-1])
	for i, v := range values {
		if v >= 0 {
			break
		}
		if bound := roundings*rounding*norm*norms[i]/unit + arithmetic; !(-v <= bound) {
			b.free(d)
			if err := d.Sync(); err != nil {
				return basis{}, fmt.Errorf("layer %s, factor %s: %w", y.layer, y.name, err)
			}
			return basis{}, fmt.Errorf("layer %s: the factor %s of product 2 is not positive semi-definite: relative to the first product it has an "+
				"eigenvalue of %.3g, and rounding explains −%.2g; ask for 1 product", y.layer, y.name, v, bound)
		}
		values[i] = 0
	}
	device.UploadSlice(d, values, b.values)
	return b, nil
}

// columnNorms are |x_j|² of all columns.
func columnNorms(d device.Device, x device.Tensor) []float64 {
	norms := d.Alloc(1, x.Cols, device.F64)
	defer d.Free(norms)
	d.ColDot(x, x, norms)
	return device.DownloadSlice[float64](d, norms)
}

func sum(x []float64) (total float64) {
	for _, v := range x {
		total += v
	}
	return total
}

// clearUpper makes a factor of Cholesky, undefined above the diagonal, the triangle that it stands for, row by row: n small
// writes, little beside what follows.
func clearUpper(d device.Device, l device.Tensor) {
	n := l.Rows
	line := l.Reshape(n*n, 1)
	for i := range n {
		d.Zero(line.Slice(i*n+i+1, (i+1)*n))
	}
}
