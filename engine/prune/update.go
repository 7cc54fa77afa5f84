package prune

import "surgeon/engine/device"

// Update is the way the weights that stay are changed.
type Update uint8

const (
	// Joint is the optimum for rows and columns removed together.
	Joint Update = iota
	// Sum adds a row step and a column step both made from the old weights, as the published scripts do; the cross term is
	// missed. Kept for comparison.
	Sum
	// None leaves the weights that stay as they are.
	None
)

// Result is one layer after a shot.
type Result struct {
	W         device.Tensor // R×C, F64; the caller frees it
	Removed   int           // weights that are zero in it, what is dead included
	Predicted float64       // increase of the loss, nats per token
	Raised    []Raised
	// Iterations is how many steps of conjugate gradients it took; 0 where the update is solved directly.
	Iterations int
}

// Apply removes what is alive but not kept from some layers, re-fits the rest, and predicts what it costs (method.md section 5;
// The LLM Surgeon, section 3.3). Over alive indices, with S kept rows, T kept columns and Q what is removed now,
//
//	V = (G'_SS)⁻¹ G'_S: W A'_:T (A'_TT)⁻¹        Joint
//	½ tr(Dᵀ G D A),  D = new − old W              Predicted, with undamped factors
//
// G'_SS⁻¹G'_SS is the identity, so each step is W_S + X·W_Q with X = (G'_SS)⁻¹G'_SQ and so on the other side: one Cholesky
// factorisation of the kept part, and a solve for as many columns as are removed, side by side for all layers. The other way, through
// the inverse of the whole, −[G'⁻¹]_SQ([G'⁻¹]_QQ)⁻¹, gives the same (exact) but has to factor the whole: n³/3 + 2n²q against
// s³/3 + 2s²q FLOP with s = n−q, so it never pays where no factor is kept from the costs; keeping those would double the memory
// of factors.
//
// That is one product with damped factors; refit.go has the others, layer by layer.
//
// tolerance, which sums of three products and more need, is an estimate of what the solution costs above the least, as a share of
// that (change). 0 = what rounding allows. In an error nothing is held.
func Apply(d device.Device, layers []Layer, alive, kept []Kept, how Update, damp Damping, tolerance float64) ([]Result, error) {
	parts := make([]partition, len(layers))
	for i := range layers {
		parts[i] = newPartition(alive[i], kept[i])
	}
	reaches := make([]reach, len(layers))
	if how != None {
		var err error
		if reaches, err = reachesOf(d, layers, alive, parts, damp); err != nil {
			return nil, err
		}
	}
	results := make([]Result, len(layers))
	for i, l := range layers {
		if err := results[i].apply(d, l, alive[i], parts[i], &reaches[i], how, damp, tolerance); err != nil {
			for k := range layers {
				d.Free(results[k].W)
				reaches[k].free(d)
			}
			return nil, err
		}
	}
	return results, nil
}

// apply is Apply for one layer.
func (r *Result) apply(d device.Device, l Layer, alive Kept, p partition, x *reach, how Update, damp Damping, tolerance float64) (err error) {
	r.Removed = l.W.Len() - len(p.s)*len(p.t)
	if !p.removes() { // the step is zero, and so is what it costs
		r.W = Restrict(d, l.W, alive)
		return nil
	}
	w := gather(d, l.W, p.rows, p.cols)
	v := d.Alloc(len(p.rows), len(p.cols), device.F64)
	d.Zero(v)
	if len(p.s) > 0 && len(p.t) > 0 {
		stays := gather(d, w, p.s, p.t)
		switch {
		case how == None:
		case l.factored(damp):
			x.refit(d, p, how, w, stays)
			r.Raised = x.raised
		default:
			r.Raised, r.Iterations, err = refitSum(d, l, alive, p, how, damp, tolerance, w, stays)
		}
		d.Scatter(stays, p.s, p.t, v)
		d.Free(stays)
		if err != nil {
			d.Free(w, v)
			return err
		}
		if how == Joint && l.factored(damp) && fewGo(len(p.rows), len(p.cols), len(p.q)+len(p.u)) {
			r.whole(d, l, p, v)
			d.Free(v)
			r.Predicted, err = x.increase(d, l, p, w)
			return err
		}
	}
	x.free(d) // before the prediction, which needs room
	return r.step(d, l, p, w, v)
}

// whole makes W of v, which is over alive rows and columns, with zeros in the place of the others.
func (r *Result) whole(d device.Device, l Layer, p partition, v device.Tensor) {
	r.W = d.Alloc(l.W.Rows, l.W.Cols, device.F64)
	d.Zero(r.W)
	d.Scatter(v, p.rows, p.cols, r.W)
}

// step makes W of v, which is w after the step over alive rows and columns, and predicts what the step costs. w and v are freed.
func (r *Result) step(d device.Device, l Layer, p partition, w, v device.Tensor) (err error) {
	r.whole(d, l, p, v)
	d.Axpy(-1, w, v) // now D
	d.Free(w)
	r.Predicted, err = increase(d, l, p, v)
	return err
}

// partition splits the alive rows and columns of a layer into kept and removed ones.
type partition struct {
	rows, cols   []int32 // alive, positions in the full matrix
	s, q         []int32 // rows kept and removed, positions among the alive
	t, u         []int32 // columns kept and removed, positions among the alive
	keptR, goneR []int32 // the same as positions in the full matrix
	keptC, goneC []int32
}

func newPartition(alive, kept Kept) partition {
	p := partition{rows: positions(alive.Rows), cols: positions(alive.Cols)}
	p.s, p.q, p.keptR, p.goneR = split(p.rows, kept.Rows)
	p.t, p.u, p.keptC, p.goneC = split(p.cols, kept.Cols)
	return p
}

// removes says whether anything goes that is alive.
func (p partition) removes() bool { return len(p.q) > 0 || len(p.u) > 0 }

func split(alive []int32, kept []bool) (stay, go_, stayFull, goFull []int32) {
	for i, at := range alive {
		if kept[at] {
			stay, stayFull = append(stay, int32(i)), append(stayFull, at)
		} else {
			go_, goFull = append(go_, int32(i)), append(goFull, at)
		}
	}
	return stay, go_, stayFull, goFull
}

// reach is what the weights that go do to those that stay: X_L = (G'_SS)⁻¹G'_SQ from removed rows to kept ones, X_R =
// A'_UT(A'_TT)⁻¹ from removed columns to kept ones. A side on which nothing goes, or whose factor is the identity and couples
// nothing, has none.
type reach struct {
	rows, cols device.Tensor // S×Q and U×T
	raised     []Raised
}

func (x *reach) free(d device.Device) {
	d.Free(x.rows, x.cols)
	x.rows, x.cols = device.Tensor{}, device.Tensor{}
}

// reachesOf are those of the layers whose curvature is one product of damped factors.
func reachesOf(d device.Device, layers []Layer, alive []Kept, parts []partition, damp Damping) ([]reach, error) {
	type solve struct {
		side       device.Side
		rows, cols []int32 // of the factor's block that is solved for
		to         *reach
	}
	all := make([]reach, len(layers))
	var solves []solve
	var factors []*factor
	var kept [][]int32
	for i, l := range layers {
		p := parts[i]
		if !l.factored(damp) || len(p.s) == 0 || len(p.t) == 0 {
			continue
		}
		if len(p.q) > 0 && l.G.N > 0 {
			factors, kept = append(factors, newFactor(d, l.Name, "G", l.G, alive[i].Rows, damp.G)), append(kept, p.keptR)
			solves = append(solves, solve{device.Left, p.keptR, p.goneR, &all[i]})
		}
		if len(p.u) > 0 && l.A.N > 0 {
			factors, kept = append(factors, newFactor(d, l.Name, "A", l.A, alive[i].Cols, damp.A)), append(kept, p.keptC)
			solves = append(solves, solve{device.Right, p.goneC, p.keptC, &all[i]})
		}
	}
	ls, err := factorise(d, factors, kept)
	if err != nil {
		return nil, err
	}
	defer d.Free(ls...)
	var l, b [2][]device.Tensor // by side
	for k, s := range solves {
		x := factors[k].block(d, s.rows, s.cols)
		if s.side == device.Left {
			s.to.rows = x
		} else {
			s.to.cols = x
		}
		s.to.raised = append(s.to.raised, factors[k].raised()...)
		l[s.side], b[s.side] = append(l[s.side], ls[k]), append(b[s.side], x)
	}
	for _, side := range []device.Side{device.Left, device.Right} {
		d.CholeskySolve(side, l[side], b[side])
	}
	return all, nil
}

// refit changes stays = W_ST into V.
func (x *reach) refit(d device.Device, p partition, how Update, w, stays device.Tensor) {
	if !x.rows.IsZero() { // V ← W_ST + X_L W_QT
		part := gather(d, w, p.q, p.t)
		d.Gemm(false, false, 1, x.rows, part, 1, stays)
		d.Free(part)
	}
	if !x.cols.IsZero() { // V ← V + Y_SU X_R; Y is W after the row step for Joint, before it for Sum
		part := gather(d, w, p.s, p.u)
		if how == Joint {
			x.rowStep(d, p, w, part)
		}
		d.Gemm(false, false, 1, part, x.cols, 1, stays)
		d.Free(part)
	}
}

// rowStep changes part = W_SU into Y = W_SU + X_L W_QU.
func (x *reach) rowStep(d device.Device, p partition, w, part device.Tensor) {
	if x.rows.IsZero() {
		return
	}
	corner := gather(d, w, p.q, p.u)
	d.Gemm(false, false, 1, x.rows, corner, 1, part)
	d.Free(corner)
}

func gather(d device.Device, x device.Tensor, rows, cols []int32) device.Tensor {
	y := d.Alloc(len(rows), len(cols), x.Type)
	d.Gather(x, rows, cols, y)
	return y
}
