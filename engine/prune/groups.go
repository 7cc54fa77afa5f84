package prune

import (
	"fmt"
	"math"
	"slices"

	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
)

// Grouping is how the single weights that go from a layer are put together for the update of those that stay.
type Grouping struct {
	Limit      int  // most weights of a group; a row that alone has more is a group by itself. 0: all of a matrix are one
	Sequential bool // each group sees what the update of those before it made of its weights

	// Tolerance is the residual of a solution, as a share of the right side's; of sums of three products and more, an estimate of what
	// it costs above the least, as a share of that (change). 0 = what rounding allows. Groups that are solved side by side are one system to it.
	Tolerance float64
}

// limit is the residual where a solution has converged.
func (g Grouping) limit() float64 { return max(residualLimit, g.Tolerance) }

// ApplyElements removes single weights, re-fits the rest, and predicts what it costs (method.md section 5; The LLM Surgeon,
// section 3.3). gone marks all weights that are zero afterwards, R×C in row-major order, those that were zero before
// included: they have to stay so. Over alive rows and columns, for a group of weights at (r_i, c_i),
//
//	y = M⁻¹ w,  M_ij = [G'⁻¹]_{r_i r_j}·[A'⁻¹]_{c_i c_j}
//	ΔW = −G'⁻¹ Y A'⁻¹,  Y = y at its places and 0 elsewhere
//
// M is never made: for a matrix Y that is 0 but at the places, M y is what G'⁻¹ Y A'⁻¹ is there, 2·R·C² + 2·R²·C FLOP, and
// conjugate gradients with M's diagonal as preconditioner take some tens of them (removedSystem). To factor M takes n³/3
// for n places, and the square of the number of rows times that if they are spread over the rows.
//
// Groups are solved as if there were no others, and what the step of one does to the weights that another has removed is lost:
// with all rows of a matrix in one group, nothing is. TestTolerance prints what either predicts for a small layer, and what a
// residual of 1e-2 leaves of that. Groups side by side are one system, with 0 in G'⁻¹ where two rows are not of one group.
//
// The Y of all groups add up, so the step takes two products more, however many groups there are. In Sequential mode a group
// starts from W + ΔW of the groups before it, of which only its own rows are evaluated: with Z = Y·A'⁻¹, rows S of ΔW are
// −[G'⁻¹]_S: Z, and Z grows by the rows of each group. That is the same two products, cut up.
//
// A factor that is the identity has no correlations: without G rows do not know of one another and are groups by themselves;
// without both there is nothing to re-fit.
func ApplyElements(d device.Device, l Layer, alive Kept, gone []bool, how Update, damp Damping, grouping Grouping) (Result, error) {
	p := newPartition(alive, alive)
	places := placesOf(p, l.W.Cols, gone)
	w := gather(d, l.W, p.rows, p.cols)
	v := d.Alloc(w.Rows, w.Cols, device.F64)
	d.Copy(w, v)
	var result Result
	var err error
	switch {
	case how == None || places.count() == 0:
	case !l.factored(damp):
		result, err = refitMasked(d, l, alive, places, damp, grouping, w, v)
	case l.A.N > 0 || l.G.N > 0:
		result, err = refitElements(d, l, alive, places, damp, grouping, w, v)
	}
	if err != nil {
		d.Free(w, v)
		return Result{}, err
	}
	result.Removed = len(gone) - w.Len() + places.count()
	places.set(d, v, 0)
	if err := result.step(d, l, p, w, v); err != nil {
		d.Free(result.W)
		return Result{}, err
	}
	return result, nil
}

// removal lists the weights that go, over alive rows and columns: of row i those at[start[i]:start[i+1]], as positions
// i·cols + j in the alive matrix.
type removal struct {
	cols  int
	at    []int32
	start []int
}

func placesOf(p partition, width int, gone []bool) removal {
	r := removal{cols: len(p.cols), start: make([]int, len(p.rows)+1)}
	grain := max(1, marksGrain/max(1, r.cols))
	parallel.For(len(p.rows), grain, func(_, from, to int) {
		for i := from; i < to; i++ {
			marks := gone[int(p.rows[i])*width:][:width]
			n := 0
			for _, col := range p.cols {
				if marks[col] {
					n++
				}
			}
			r.start[i+1] = n
		}
	})
	for i := range p.rows {
		r.start[i+1] += r.start[i]
	}
	r.at = make([]int32, r.start[len(p.rows)]) // no list would stand for all
	parallel.For(len(p.rows), grain, func(_, from, to int) {
		row := make([]int32, r.cols+1)
		for i := from; i < to; i++ {
			marks := gone[int(p.rows[i])*width:][:width]
			n := 0
			for j, col := range p.cols { // writes what the next one may write over: half of the marks is no branch to guess
				row[n] = int32(i*r.cols + j)
				if marks[col] {
					n++
				}
			}
			copy(r.at[r.start[i]:], row[:n])
		}
	})
	return r
}

func (r removal) count() int { return len(r.at) }

// set makes a value of the removed weights of an alive matrix.
func (r removal) set(d device.Device, x device.Tensor, value float64) {
	values := fill(d, r.count(), 1, value)
	d.Scatter(values.Reshape(1, r.count()), nil, r.at, x.Reshape(1, x.Len()))
	d.Free(values)
}

// mark is R×C: 1 where a weight goes, +∞ elsewhere. The caller frees it.
func (r removal) mark(d device.Device, rows int) device.Tensor {
	x := fill(d, rows, r.cols, math.Inf(1))
	r.set(d, x, 1)
	return x
}

// group is rows from to to−1 of the alive matrix: as many whole rows as have at most limit weights to remove.
type group struct{ from, to int }

// groups cuts the rows that lose something into groups; with limit 0 all are one.
func (r removal) groups(limit int) []group {
	var all []group
	for i := range len(r.start) - 1 {
		if r.start[i+1] == r.start[i] {
			continue
		}
		last := len(all) - 1
		if last >= 0 && (limit == 0 || r.start[i+1]-r.start[all[last].from] <= limit) {
			all[last].to = i + 1
		} else {
			all = append(all, group{i, i + 1})
		}
	}
	return all
}

// refitElements adds ΔW to v. Damping is raised where a factor, or the system of a group, is not positive definite.
func refitElements(d device.Device, l Layer, alive Kept, places removal, damp Damping, grouping Grouping, w, v device.Tensor) (Result, error) {
	a, g := newFactor(d, l.Name, "A", l.A, alive.Cols, damp.A), newFactor(d, l.Name, "G", l.G, alive.Rows, damp.G)
	for raises := 0; ; raises++ {
		u := elementUpdate{d: d, groups: places.groups(grouping.Limit), w: w, limit: grouping.limit()}
		if err := u.start(g, a, places); err != nil {
			u.free()
			return Result{}, err
		}
		ok, err := u.solve(grouping.Sequential)
		if err == nil && ok {
			u.apply(v)
		}
		u.free()
		switch {
		case err != nil:
			return Result{}, fmt.Errorf("layer %s: %w", l.Name, err)
		case ok:
			return Result{Raised: append(g.raised(), a.raised()...), Iterations: u.iterations}, nil
		case raises == maxRaises:
			return Result{}, &NotPositiveDefinite{Raised{Layer: l.Name, Factor: "A", Share: a.share}}
		}
		for _, f := range []*factor{a, g} {
			if !f.identity() {
				f.raise()
			}
		}
	}
}

// elementUpdate is the update of one layer's single weights: all matrices are over alive rows and columns.
type elementUpdate struct {
	d        device.Device
	groups   []group
	w        device.Tensor // R×C
	gi, ai   device.Tensor // G'⁻¹ and A'⁻¹, or none for the identity
	ai32     device.Tensor // A'⁻¹ in float32 where products are made in it
	goes     device.Tensor // R×C: 1 where a weight goes, +∞ elsewhere
	diagonal device.Tensor // R×C: the diagonal of G'⁻¹ ⊗ A'⁻¹
	z        device.Tensor // R×C: Y·A'⁻¹ so far

	limit      float64 // of residuals
	iterations int     // the most that a solution took
}

func (u *elementUpdate) start(g, a *factor, places removal) (err error) {
	if u.gi, err = inverseOf(u.d, g); err != nil {
		return err
	}
	if u.ai, err = inverseOf(u.d, a); err != nil {
		return err
	}
	if u.limit >= float32Limit {
		u.ai32 = narrowed(u.d, u.ai)
	}
	u.goes = places.mark(u.d, u.w.Rows)
	u.diagonal = outer(u.d, diagonalOf(u.d, u.gi, u.w.Rows), diagonalOf(u.d, u.ai, u.w.Cols))
	u.z = u.d.Alloc(u.w.Rows, u.w.Cols, device.F64)
	u.d.Zero(u.z)
	return nil
}

// inverseOf is the inverse of the damped factor over its alive indices, none for the identity: 7/3 n³ FLOP. It is that of the
// factor over its unit, so that float32 holds it whatever the scale of the loss; the step is the same, as Y is smaller
// by as much as the inverse is larger.
func inverseOf(d device.Device, f *factor) (device.Tensor, error) {
	l, err := f.cholesky(d, f.index)
	if err != nil || f.identity() {
		return device.Tensor{}, err
	}
	defer d.Free(l)
	x := scaledIdentity(d, f.unit(), l.Rows)
	d.CholeskySolve(device.Left, []device.Tensor{l}, []device.Tensor{x})
	return x, nil
}

// diagonalOf is that of a matrix of order n, where a zero one stands for the identity.
func diagonalOf(d device.Device, x device.Tensor, n int) []float64 {
	if x.IsZero() {
		return slices.Repeat([]float64{1}, n)
	}
	diagonal := d.Alloc(1, n, x.Type)
	defer d.Free(diagonal)
	at := make([]int32, n)
	for i := range at {
		at[i] = int32(i * (n + 1))
	}
	d.Gather(x.Reshape(1, x.Len()), nil, at, diagonal)
	return device.DownloadSlice[float64](d, diagonal)
}

// solve makes z. ok is false where a system is not positive definite.
func (u *elementUpdate) solve(sequential bool) (ok bool, err error) {
	if !sequential {
		return u.solvePart(group{0, u.w.Rows}, u.groups)
	}
	for _, g := range u.groups {
		if ok, err = u.solvePart(g, []group{g}); !ok || err != nil {
			return ok, err
		}
	}
	return true, nil
}

// solvePart solves for the groups in these rows, and adds their rows to z. What other groups made of the weights before shows in z.
func (u *elementUpdate) solvePart(part group, groups []group) (ok bool, err error) {
	d, rows := u.d, part.to-part.from
	alloc := func(t device.Type) device.Tensor { return d.Alloc(rows, u.w.Cols, t) }
	b, y, within := alloc(device.F64), alloc(device.F64), u.within(part, groups)
	defer d.Free(b, y, within)
	d.Copy(u.w.Slice(part.from, part.to), b)
	if part.from > 0 && !u.gi.IsZero() {
		correlations := gather(d, u.gi, span(part.from, part.to), span(0, part.from))
		d.Gemm(false, false, -1, correlations, u.z.Slice(0, part.from), 1, b)
		d.Free(correlations)
	}
	goes := u.goes.Slice(part.from, part.to)
	d.Divide(b, goes, b)
	s := removedSystem{d: d, goes: goes, diagonal: u.diagonal.Slice(part.from, part.to), limit: u.limit}
	product := alloc(device.F64)
	defer d.Free(product)
	s.inverse = func(x, fx device.Tensor) {
		right(d, x, u.ai, product)
		left(d, within, product, fx)
	}
	if u.limit >= float32Limit {
		within, from, half := narrowed(d, within), alloc(device.F32), alloc(device.F32)
		defer d.Free(within, from, half)
		s.rounded = func(x, fx device.Tensor) {
			d.Copy(x, from)
			right(d, from, u.ai32, half)
			left(d, within, half, from)
			d.Copy(from, fx)
		}
	}
	n, ok, err := s.solve(b, y)
	u.iterations = max(u.iterations, n)
	if !ok || err != nil {
		return ok, err
	}
	right(d, y, u.ai, u.z.Slice(part.from, part.to))
	return true, nil
}

// narrowed is a float32 copy, which the caller frees; zero of zero.
func narrowed(d device.Device, x device.Tensor) device.Tensor {
	if x.IsZero() {
		return x
	}
	y := d.Alloc(x.Rows, x.Cols, device.F32)
	d.Copy(x, y)
	return y
}

// within is G'⁻¹ over the rows of a part, 0 where two rows are not of one group; zero for the identity. The caller frees it.
func (u *elementUpdate) within(part group, groups []group) device.Tensor {
	if u.gi.IsZero() {
		return device.Tensor{}
	}
	n := part.to - part.from
	m := u.d.Alloc(n, n, device.F64)
	u.d.Zero(m)
	for _, g := range groups {
		block, at := gather(u.d, u.gi, span(g.from, g.to), span(g.from, g.to)), span(g.from-part.from, g.to-part.from)
		u.d.Scatter(block, at, at, m)
		u.d.Free(block)
	}
	return m
}

// apply is v ← v − G'⁻¹ Z.
func (u *elementUpdate) apply(v device.Tensor) {
	if u.gi.IsZero() {
		u.d.Axpy(-1, u.z, v)
	} else {
		u.d.Gemm(false, false, -1, u.gi, u.z, 1, v)
	}
}

func (u *elementUpdate) free() { u.d.Free(u.gi, u.ai, u.ai32, u.goes, u.diagonal, u.z) }

// float32Limit is the least tolerance for which products in float32, twice as fast on a CPU, are near enough on the way.
const float32Limit = 1e-4

// removedSystem is [F'⁻¹y] = b on what goes, for a y that is 0 on what stays. All are R×C.
type removedSystem struct {
	d        device.Device
	goes     device.Tensor             // as removal.mark makes it
	diagonal device.Tensor             // of F'⁻¹
	inverse  func(x, fx device.Tensor) // fx ← F'⁻¹x
	rounded  func(x, fx device.Tensor) // the same by products in float32; nil where all are made in float64
	limit    float64                   // of the residual
}

// solve takes conjugate gradients with the diagonal of F'⁻¹ as preconditioner; b is 0 on what stays.
//
// The diagonal is enough. Cholesky factors of single rows, n³/3 FLOP for the n places of each and all of them to be kept, leave fewer
// steps, but take longer than those they spare: BenchmarkWeights on a block of SmolLM2, two cores of an AMD EPYC and OpenBLAS, took
// 10.7 s with them and takes 8.8 s without.
func (s removedSystem) solve(b, y device.Tensor) (iterations int, ok bool, err error) {
	masked := func(inverse func(x, fx device.Tensor)) func(x, y device.Tensor) {
		return func(x, y device.Tensor) {
			inverse(x, y)
			s.d.Divide(y, s.goes, y)
		}
	}
	c := conjugate{dev: s.d, most: maxIterations, limit: s.limit, apply: masked(s.inverse)}
	if s.rounded != nil {
		c.apply, c.exact = masked(s.rounded), c.apply
	}
	c.precondition = func(r, z device.Tensor) { s.d.Divide(r, s.diagonal, z) }
	return c.solve(b, y)
}

// span is the index list i, i+1, …, j−1.
func span(i, j int) []int32 {
	s := make([]int32, j-i)
	for k := range s {
		s[k] = int32(i + k)
	}
	return s
}
