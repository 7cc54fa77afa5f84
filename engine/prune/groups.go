package prune

import "surgeon/engine/device"

// Grouping is how the single weights that go from a layer are put together for the update of those that stay.
type Grouping struct {
	Limit      int  // most weights of a group; a row that alone has more is a group by itself
	Sequential bool // each group sees what the update of those before it made of its weights
}

// batchBytes is about how much memory the systems of groups that are factored side by side take.
const batchBytes = 256 << 20

// ApplyElements removes single weights, re-fits the rest, and predicts what it costs (method.md section 5; The LLM Surgeon,
// section 3.3). gone marks all weights that are zero afterwards, R×C in row-major order, those that were zero before
// included: they have to stay so. Over alive rows and columns, for a group of weights at (r_i, c_i),
//
//	y = M⁻¹ w,  M_ij = [G'⁻¹]_{r_i r_j}·[A'⁻¹]_{c_i c_j}        n³/3 FLOP for n weights
//	ΔW = −G'⁻¹ Y A'⁻¹,  Y = y at its places and 0 elsewhere
//
// The Y of all groups add up, so the whole matrix takes two products, 2·R·C² + 2·R²·C FLOP, however many groups there are. In
// Sequential mode a group starts from W + ΔW of the groups before it, of which only its own rows are evaluated: with
// Z = Y·A'⁻¹, rows S of ΔW are −[G'⁻¹]_S: Z, and Z grows by the rows of each group. That is the same two products, cut up.
//
// A factor that is the identity has no correlations: without G rows do not know of one another and are groups by themselves;
// without both there is nothing to re-fit.
func ApplyElements(d device.Device, l Layer, alive Kept, gone []bool, how Update, damp Damping, grouping Grouping) (Result, error) {
	p := newPartition(alive, alive)
	places := placesOf(p, l.W.Cols, gone)
	w := gather(d, l.W, p.rows, p.cols)
	defer d.Free(w)
	v := d.Alloc(w.Rows, w.Cols, device.F64)
	defer d.Free(v)
	d.Copy(w, v)
	var raised []Raised
	if how != None && places.count() > 0 && l.A.N > 0 {
		var err error
		if raised, err = refitElements(d, l, alive, p, places, damp, grouping, w, v); err != nil {
			return Result{}, err
		}
	}
	places.zero(d, v)

	full := d.Alloc(l.W.Rows, l.W.Cols, device.F64)
	d.Zero(full)
	d.Scatter(v, p.rows, p.cols, full)
	d.Axpy(-1, w, v) // now D
	predicted, err := increase(d, l, p, v)
	if err != nil {
		d.Free(full)
		return Result{}, err
	}
	return Result{W: full, Predicted: predicted, Raised: raised}, nil
}

// removal lists the weights that go, over alive rows and columns: of row i those at[start[i]:start[i+1]], as positions
// i·cols + j in the alive matrix.
type removal struct {
	cols  int
	at    []int32
	start []int
}

func placesOf(p partition, width int, gone []bool) removal {
	r := removal{cols: len(p.cols), at: []int32{}, start: make([]int, len(p.rows)+1)} // no list would stand for all
	for i, row := range p.rows {
		marks := gone[int(row)*width : (int(row)+1)*width]
		for j, col := range p.cols {
			if marks[col] {
				r.at = append(r.at, int32(i*r.cols+j))
			}
		}
		r.start[i+1] = len(r.at)
	}
	return r
}

func (r removal) count() int { return len(r.at) }

// zero makes the removed weights of an alive matrix 0.
func (r removal) zero(d device.Device, v device.Tensor) {
	zeros := d.Alloc(1, r.count(), v.Type)
	defer d.Free(zeros)
	d.Zero(zeros)
	d.Scatter(zeros, nil, r.at, v.Reshape(1, v.Len()))
}

// group is rows from to to−1 of the alive matrix: as many whole rows as have at most limit weights to remove.
type group struct{ from, to int }

// groups cuts the rows that lose something into groups.
func (r removal) groups(limit int) []group {
	var all []group
	for i := range len(r.start) - 1 {
		if r.start[i] == r.start[i+1] {
			continue
		}
		if last := len(all) - 1; last >= 0 && r.start[i+1]-r.start[all[last].from] <= limit {
			all[last].to = i + 1
		} else {
			all = append(all, group{i, i + 1})
		}
	}
	return all
}

// of are the rows and columns, and the positions in the alive matrix, of a group's weights.
func (r removal) of(g group) (rows, cols, at []int32) {
	at = r.at[r.start[g.from]:r.start[g.to]]
	rows, cols = make([]int32, len(at)), make([]int32, len(at))
	for k, p := range at {
		rows[k], cols[k] = p/int32(r.cols), p%int32(r.cols)
	}
	return rows, cols, at
}

// refitElements adds ΔW to v. Damping is raised where a factor, or the system of a group, is not positive definite.
func refitElements(d device.Device, l Layer, alive Kept, p partition, places removal, damp Damping, grouping Grouping, w, v device.Tensor) ([]Raised, error) {
	a := newFactor(d, l.Name, "A", l.A, alive.Cols, damp.A)
	var g *factor
	if l.G.N > 0 {
		g = newFactor(d, l.Name, "G", l.G, alive.Rows, damp.G)
	} else {
		grouping.Limit = 0
	}
	for raises := 0; ; raises++ {
		u := elementUpdate{d: d, places: places, groups: places.groups(grouping.Limit), w: w}
		ok, err := u.invert(g, a)
		if err == nil && ok {
			ok, err = u.solve(grouping.Sequential)
		}
		if err == nil && ok {
			u.apply(v)
		}
		u.free()
		switch {
		case err != nil:
			return nil, err
		case ok:
			raised := a.raised(damp.A)
			if g != nil {
				raised = append(raised, g.raised(damp.G)...)
			}
			return raised, nil
		case raises == maxRaises:
			return nil, &NotPositiveDefinite{Raised{Layer: l.Name, Factor: "A", Share: a.share}}
		}
		for _, f := range []*factor{g, a} {
			if f != nil {
				f.raise()
			}
		}
	}
}

// elementUpdate is the update of one layer's single weights: all matrices are over alive rows and columns.
type elementUpdate struct {
	d      device.Device
	places removal
	groups []group
	w      device.Tensor // R×C
	gi, ai device.Tensor // G'⁻¹, or none for the identity, and A'⁻¹
	z      device.Tensor // R×C: Y·A'⁻¹ so far
}

func (u *elementUpdate) invert(g, a *factor) (ok bool, err error) {
	if g != nil {
		if u.gi, err = inverse(u.d, g); err != nil {
			return false, err
		}
	}
	u.ai, err = inverse(u.d, a)
	return true, err
}

// inverse is the inverse of the damped factor over its alive indices: 7/3 n³ FLOP.
func inverse(d device.Device, f *factor) (device.Tensor, error) {
	l, err := f.cholesky(d, f.index)
	if err != nil {
		return device.Tensor{}, err
	}
	defer d.Free(l)
	x := d.Alloc(l.Rows, l.Rows, device.F64)
	d.Zero(x)
	d.AddDiagonal(1, x)
	d.CholeskySolve(device.Left, l, x)
	return x, nil
}

// solve makes z. ok is false where the system of a group is not positive definite.
func (u *elementUpdate) solve(sequential bool) (ok bool, err error) {
	u.z = u.d.Alloc(u.w.Rows, u.w.Cols, device.F64)
	u.d.Zero(u.z)
	if sequential {
		for _, g := range u.groups {
			if ok, err = u.solveSequential(g); !ok || err != nil {
				return ok, err
			}
		}
		return true, nil
	}
	y := u.d.Alloc(1, u.places.count(), device.F64)
	defer u.d.Free(y)
	u.d.Gather(u.w.Reshape(1, u.w.Len()), nil, u.places.at, y)
	for i := 0; i < len(u.groups); {
		j := i
		for bytes := 0; j < len(u.groups); j++ {
			n := u.places.start[u.groups[j].to] - u.places.start[u.groups[j].from]
			if bytes += 8 * n * n; bytes > batchBytes && j > i {
				break
			}
		}
		if ok, err = u.solveBatch(u.groups[i:j], y); !ok || err != nil {
			return ok, err
		}
		i = j
	}
	full := u.d.Alloc(u.w.Rows, u.w.Cols, device.F64)
	defer u.d.Free(full)
	u.d.Zero(full)
	u.d.Scatter(y, nil, u.places.at, full.Reshape(1, full.Len()))
	u.d.Gemm(false, false, 1, full, u.ai, 0, u.z)
	return true, nil
}

// solveBatch is y ← M⁻¹ y for each group, y holding all removed weights one after the other.
func (u *elementUpdate) solveBatch(groups []group, y device.Tensor) (ok bool, err error) {
	systems := make([]device.Tensor, len(groups))
	for k, g := range groups {
		systems[k] = u.system(g)
	}
	defer u.d.Free(systems...)
	for k, ok := range u.d.Cholesky(systems...) {
		if !ok {
			return false, u.d.Sync()
		}
		from, to := u.places.start[groups[k].from], u.places.start[groups[k].to]
		u.d.CholeskySolve(device.Left, systems[k], y.Reshape(y.Len(), 1).Slice(from, to))
	}
	return true, nil
}

// system is the matrix M of a group.
func (u *elementUpdate) system(g group) device.Tensor {
	rows, cols, at := u.places.of(g)
	m := u.d.Alloc(len(at), len(at), device.F64)
	if u.gi.IsZero() {
		u.d.Gather(u.ai, cols, cols, m)
	} else {
		u.d.KronGather(u.gi, u.ai, rows, cols, m)
	}
	return m
}

// solveSequential solves for one group after all before it, and adds its rows to z.
func (u *elementUpdate) solveSequential(g group) (ok bool, err error) {
	d, n := u.d, g.to-g.from
	base := d.Alloc(n, u.w.Cols, device.F64)
	defer d.Free(base)
	d.Copy(u.w.Slice(g.from, g.to), base)
	if g.from > 0 && !u.gi.IsZero() {
		correlations := gather(d, u.gi, span(g.from, g.to), span(0, g.from))
		d.Gemm(false, false, -1, correlations, u.z.Slice(0, g.from), 1, base)
		d.Free(correlations)
	}
	m := u.system(g)
	defer d.Free(m)
	if !d.Cholesky(m)[0] {
		return false, d.Sync()
	}
	at := make([]int32, m.Rows)
	for k, p := range u.places.at[u.places.start[g.from]:u.places.start[g.to]] {
		at[k] = p - int32(g.from*u.places.cols)
	}
	y := d.Alloc(1, len(at), device.F64)
	defer d.Free(y)
	d.Gather(base.Reshape(1, base.Len()), nil, at, y)
	d.CholeskySolve(device.Left, m, y.Reshape(len(at), 1))
	d.Zero(base)
	d.Scatter(y, nil, at, base.Reshape(1, base.Len()))
	d.Gemm(false, false, 1, base, u.ai, 0, u.z.Slice(g.from, g.to))
	return true, nil
}

// apply is v ← v − G'⁻¹ Z.
func (u *elementUpdate) apply(v device.Tensor) {
	if u.gi.IsZero() {
		u.d.Axpy(-1, u.z, v)
	} else {
		u.d.Gemm(false, false, -1, u.gi, u.z, 1, v)
	}
}

func (u *elementUpdate) free() { u.d.Free(u.gi, u.ai, u.z) }

// span is the index list i, i+1, …, j−1.
func span(i, j int) []int32 {
	s := make([]int32, j-i)
	for k := range s {
		s[k] = int32(i + k)
	}
	return s
}

// BatchElements is how many float64 numbers the systems of groups take at most at one time.
func BatchElements(limit, rows, cols int) int64 {
	weights := int64(rows) * int64(cols)
	largest := min(int64(max(limit, cols)), weights)
	return min(max(batchBytes/8, largest*largest), largest*weights)
}
