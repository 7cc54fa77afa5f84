package prune

import (
	"fmt"
	"math"
	"slices"

	"surgeon/engine/device"
)

// Grouping is how the single weights that go from a layer are put together for the update of those that stay.
type Grouping struct {
	Limit      int  // most weights of a group; a row that alone has more is a group by itself. 0: as many rows as groupBytes hold
	Sequential bool // each group sees what the update of those before it made of its weights

	// Tolerance is the residual of a solution, as a share of the right side's; 0 = exact but for rounding. Groups that are solved
	// side by side are one system to it, and so are all weights of a curvature that takes no groups.
	Tolerance float64
}

// limit is the residual where a solution has converged.
func (g Grouping) limit() float64 { return max(residualLimit, g.Tolerance) }

// batchBytes is about how much memory rows take that are factored side by side.
const batchBytes = 128 << 20

// groupBytes is the most memory that the factored rows of a group take where Grouping.Limit leaves that open. The same on every
// device, for what a group holds shows in the result.
const groupBytes = 3 << 28

// batchRows is the most rows that are solved for side by side: the product with G'⁻¹, of which only what lies within groups is
// not zero, then is small beside that with A'⁻¹.
const batchRows = 128

// ApplyElements removes single weights, re-fits the rest, and predicts what it costs (method.md section 5; The LLM Surgeon,
// section 3.3). gone marks all weights that are zero afterwards, R×C in row-major order, those that were zero before
// included: they have to stay so. Over alive rows and columns, for a group of weights at (r_i, c_i),
//
//	y = M⁻¹ w,  M_ij = [G'⁻¹]_{r_i r_j}·[A'⁻¹]_{c_i c_j}
//	ΔW = −G'⁻¹ Y A'⁻¹,  Y = y at its places and 0 elsewhere
//
// A row by itself is factored, n³/3 FLOP for its n weights. The rows of a group hang together only by G'⁻¹, so the group is
// solved by conjugate gradients with its rows, factored and kept in float32, as preconditioner: some ten to a hundred products
// with the group's rows of Y, where factoring M itself would take the square of the number of rows times as much.
//
// Groups are solved as if there were no others, and what the step of one does to the weights that another has removed is lost:
// with all rows of a matrix in one group, nothing is. TestTolerance prints what either predicts for a small layer, and what a
// residual of 1e-2 leaves of that.
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
	var result Result
	var err error
	switch {
	case how == None || places.count() == 0:
	case !l.factored(damp) || l.A.N == 0 && l.G.N > 0: // without A there are no rows to be solved by themselves
		result, err = refitMasked(d, l, alive, places, damp, grouping.limit(), w, v)
	case l.A.N > 0:
		result, err = refitElements(d, l, alive, places, damp, grouping, w, v)
	}
	if err != nil {
		return Result{}, err
	}
	places.set(d, v, 0)

	err = result.step(d, l, p, w, v)
	return result, err
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

// part is what goes from rows from to to−1.
func (r removal) part(from, to int) removal {
	first := r.start[from]
	p := removal{cols: r.cols, at: make([]int32, r.start[to]-first), start: make([]int, to-from+1)}
	for k := range p.at {
		p.at[k] = r.at[first+k] - int32(from*r.cols)
	}
	for i := range p.start {
		p.start[i] = r.start[from+i] - first
	}
	return p
}

// set makes a value of the removed weights of an alive matrix.
func (r removal) set(d device.Device, x device.Tensor, value float64) {
	values := fill(d, r.count(), 1, value)
	d.Scatter(values.Reshape(1, r.count()), nil, r.at, x.Reshape(1, x.Len()))
	d.Free(values)
}

// group is rows from to to−1 of the alive matrix: as many whole rows as have at most limit weights to remove.
type group struct{ from, to int }

// groups cuts the rows that lose something into groups.
func (r removal) groups(limit int) []group {
	var all []group
	bytes := 0 // of the last one
	for i := range len(r.start) - 1 {
		n := r.start[i+1] - r.start[i]
		if n == 0 {
			continue
		}
		last := len(all) - 1
		fits := last >= 0 && (limit > 0 && r.start[i+1]-r.start[all[last].from] <= limit || limit == 0 && bytes+4*n*n <= groupBytes)
		if bytes += 4 * n * n; fits {
			all[last].to = i + 1
		} else {
			all, bytes = append(all, group{i, i + 1}), 4*n*n
		}
	}
	return all
}

// row lists the columns of a row that go.
func (r removal) row(i int) []int32 {
	cols := make([]int32, r.start[i+1]-r.start[i])
	for k, p := range r.at[r.start[i]:r.start[i+1]] {
		cols[k] = p - int32(i*r.cols)
	}
	return cols
}

// refitElements adds ΔW to v. Damping is raised where a factor, or the system of a group, is not positive definite.
func refitElements(d device.Device, l Layer, alive Kept, places removal, damp Damping, grouping Grouping, w, v device.Tensor) (Result, error) {
	a, g := newFactor(d, l.Name, "A", l.A, alive.Cols, damp.A), newFactor(d, l.Name, "G", l.G, alive.Rows, damp.G)
	if g.identity() {
		grouping.Limit = 1
	}
	for raises := 0; ; raises++ {
		u := elementUpdate{d: d, places: places, groups: places.groups(grouping.Limit), w: w, open: grouping.Limit == 0, limit: grouping.limit()}
		if err := u.invert(g, a); err != nil {
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
			return Result{Raised: append(g.raised(damp.G), a.raised(damp.A)...), Iterations: u.iterations}, nil
		case raises == maxRaises:
			return Result{}, &NotPositiveDefinite{Raised{Layer: l.Name, Factor: "A", Share: a.share}}
		}
		a.raise()
		if !g.identity() {
			g.raise()
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

	open       bool    // how large a group is was left open
	limit      float64 // of residuals
	iterations int     // the most that a group took
}

func (u *elementUpdate) invert(g, a *factor) (err error) {
	if u.gi, err = inverseOf(u.d, g); err == nil {
		u.ai, err = inverseOf(u.d, a)
	}
	return err
}

// inverseOf is the inverse of the damped factor over its alive indices, none for the identity: 7/3 n³ FLOP.
func inverseOf(d device.Device, f *factor) (device.Tensor, error) {
	l, err := f.cholesky(d, f.index)
	if err != nil || f.identity() {
		return device.Tensor{}, err
	}
	defer d.Free(l)
	x := d.Alloc(l.Rows, l.Rows, device.F64)
	d.Zero(x)
	d.AddDiagonal(1, x)
	d.CholeskySolve(device.Left, []device.Tensor{l}, []device.Tensor{x})
	return x, nil
}

// solve makes z, and y's rows are summed into it. ok is false where a system is not positive definite.
func (u *elementUpdate) solve(sequential bool) (ok bool, err error) {
	u.z = u.d.Alloc(u.w.Rows, u.w.Cols, device.F64)
	u.d.Zero(u.z)
	for i := 0; i < len(u.groups); {
		j := i + 1
		for bytes := u.bytes(u.groups[i]); j < len(u.groups) && !sequential; j++ {
			bytes += u.bytes(u.groups[j])
			if rows := u.groups[j].to - u.groups[i].from; bytes > batchBytes || rows > batchRows {
				break
			}
		}
		if ok, err = u.solveBatch(u.groups[i:j], sequential); !ok || err != nil {
			return ok, err
		}
		i = j
	}
	return true, nil
}

// bytes is what the factored rows of a group take.
func (u *elementUpdate) bytes(g group) int {
	total := 0
	for i := g.from; i < g.to; i++ {
		n := u.places.start[i+1] - u.places.start[i]
		total += 8 * n * n
	}
	return total
}

// solveBatch solves for groups that lie next to one another, and adds their rows to z. In sequential mode it is one group, and
// its weights are those after all groups before it.
func (u *elementUpdate) solveBatch(groups []group, sequential bool) (ok bool, err error) {
	d, from, to := u.d, groups[0].from, groups[len(groups)-1].to
	places := u.places.part(from, to)
	full := d.Alloc(to-from, u.w.Cols, device.F64)
	defer d.Free(full)
	flat := full.Reshape(1, full.Len())
	d.Copy(u.w.Slice(from, to), full)
	if sequential && from > 0 && !u.gi.IsZero() {
		correlations := gather(d, u.gi, span(from, to), span(0, from))
		d.Gemm(false, false, -1, correlations, u.z.Slice(0, from), 1, full)
		d.Free(correlations)
	}
	b, y := d.Alloc(1, places.count(), device.F64), d.Alloc(1, places.count(), device.F64)
	defer d.Free(b, y)
	d.Gather(flat, nil, places.at, b)
	d.Zero(full)

	several := slices.ContainsFunc(groups, func(g group) bool { return g.to-g.from > 1 })
	t := device.F64
	if several {
		t = device.F32
	}
	rows, room, ok := u.factorRows(from, to, t)
	defer d.Free(room)
	if !ok {
		return false, d.Sync()
	}
	sides := d.Alloc(places.count(), 1, t)
	defer d.Free(sides)
	var parts []device.Tensor
	for i := range rows {
		parts = append(parts, sides.Slice(places.start[i], places.start[i+1]))
	}
	alone := func(r, z device.Tensor) {
		d.Copy(r, sides.Reshape(1, sides.Rows))
		d.CholeskySolve(device.Left, rows, parts)
		d.Copy(sides.Reshape(1, sides.Rows), z)
	}
	if !several {
		alone(b, y)
	} else {
		within, z, v := u.within(groups), d.Alloc(full.Rows, full.Cols, device.F64), d.Alloc(full.Rows, full.Cols, device.F64)
		defer d.Free(within, z, v)
		c := conjugate{dev: d, most: maxIterations, limit: u.limit, precondition: alone, apply: func(x, mx device.Tensor) {
			d.Scatter(x, nil, places.at, flat)
			d.Gemm(false, false, 1, full, u.ai, 0, z)
			d.Gemm(false, false, 1, within, z, 0, v)
			d.Gather(v.Reshape(1, v.Len()), nil, places.at, mx)
		}}
		n, ok, err := c.solve(b, y)
		u.iterations = max(u.iterations, n)
		if !ok || err != nil {
			return ok, err
		}
	}
	d.Scatter(y, nil, places.at, flat)
	d.Gemm(false, false, 1, full, u.ai, 0, u.z.Slice(from, to))
	return true, nil
}

// factorRows are the Cholesky factors of rows from to to−1 by themselves, of type t, all in one tensor that the caller frees:
// their sizes differ, and a device that keeps memory for the next of one size would keep none of theirs. ok is false where
// there is none.
func (u *elementUpdate) factorRows(from, to int, t device.Type) (all []device.Tensor, room device.Tensor, ok bool) {
	d, total := u.d, 0
	for i := from; i < to; i++ {
		total += u.square(i)
	}
	if c := u.w.Cols; t != device.F64 && u.open {
		total = max(total, openRoom(to-from, c))
	}
	room = d.Alloc(total, 1, t)
	work := room
	if t != device.F64 { // a part at a time on the way
		most := 0
		for i := from; i < to; i++ {
			most = max(most, u.square(i))
		}
		work = d.Alloc(min(total, max(most, batchBytes/8)), 1, device.F64)
		defer d.Free(work)
	}
	for i, at := from, 0; i < to; {
		var rows []device.Tensor
		used := 0
		for ; i < to && used+u.square(i) <= work.Rows; i++ {
			n := u.places.start[i+1] - u.places.start[i]
			rows = append(rows, work.Slice(used, used+n*n).Reshape(n, n))
			u.row(i, rows[len(rows)-1])
			used += n * n
		}
		for _, good := range d.Cholesky(rows...) {
			if !good {
				return nil, room, false
			}
		}
		for k, l := range rows {
			if t != device.F64 {
				rows[k] = room.Slice(at, at+l.Len()).Reshape(l.Rows, l.Cols)
				d.Copy(l, rows[k])
				at += l.Len()
			}
		}
		all = append(all, rows...)
	}
	return all, room, true
}

// openRoom is the room of a group whose size was left open, in elements of 4 bytes: what it takes if all of its rows go, and
// all of groupBytes where that is a good part of it, so that large layers of all shapes share one piece of memory.
func openRoom(rows, cols int) int {
	n := rows * cols * cols
	if n >= groupBytes/4/4 {
		n = groupBytes / 4
	}
	return n
}

// square is how many elements the system of row i has.
func (u *elementUpdate) square(i int) int {
	n := u.places.start[i+1] - u.places.start[i]
	return n * n
}

// row is the system of row i by itself: m ← [G'⁻¹]_ii·[A'⁻¹]_QQ for the columns Q of it that go.
func (u *elementUpdate) row(i int, m device.Tensor) {
	cols := u.places.row(i)
	if u.gi.IsZero() {
		u.d.Gather(u.ai, cols, cols, m)
		return
	}
	rows := make([]int32, len(cols))
	for k := range rows {
		rows[k] = int32(i)
	}
	u.d.KronGather(u.gi, u.ai, rows, cols, m)
}

// within is G'⁻¹ over the rows of the groups, 0 where two rows are not of one group.
func (u *elementUpdate) within(groups []group) device.Tensor {
	from, n := groups[0].from, groups[len(groups)-1].to-groups[0].from
	m := u.d.Alloc(n, n, device.F64)
	u.d.Zero(m)
	for _, g := range groups {
		block := gather(u.d, u.gi, span(g.from, g.to), span(g.from, g.to))
		u.d.Scatter(block, span(g.from-from, g.to-from), span(g.from-from, g.to-from), m)
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

func (u *elementUpdate) free() { u.d.Free(u.gi, u.ai, u.z) }

// span is the index list i, i+1, …, j−1.
func span(i, j int) []int32 {
	s := make([]int32, j-i)
	for k := range s {
		s[k] = int32(i + k)
	}
	return s
}

// BatchElements is how many float64 numbers a batch of groups takes at most at one time: rows on their way to be factored,
// those of a large group, factored in float32, three matrices of the batch's rows, the vectors of conjugate gradients, the list
// of their places, and what rows have to do with one another. A group has the most rows where little of each goes, and the
// largest factors where much does.
func BatchElements(limit, rows, cols int) int64 {
	r, c := int64(rows), int64(cols)
	all := r * c * c
	factored := min(max(batchBytes/8, c*c), all)
	var kept, most int64 // float32 numbers, and rows
	switch {
	case limit == 0:
		kept, most = max(min(groupBytes/4, all), int64(openRoom(rows, cols))), r
	case limit > 1:
		kept, most = min(max(batchBytes/8, int64(limit)*c), all), min(r, max(int64(limit), batchRows))
	default: // single rows, factored in float64
		most = min(r, batchRows)
	}
	removed := min(most*c, max(batchRows*c, int64(limit), int64(math.Sqrt(float64(r)*groupBytes/4)))) // n of each of r rows, where r·n² is what a group keeps
	return factored + kept/2 + 3*most*c + 7*removed + removed/2 + most*most
}
