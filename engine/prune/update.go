package prune

import (
	"fmt"
	"math"

	"surgeon/engine/device"
)

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
	Predicted float64       // increase of the loss, nats per token
	Raised    []Raised
	// Iterations is how many steps of conjugate gradients it took; 0 where the update is solved directly.
	Iterations int
}

// Apply removes what is alive but not kept, re-fits the rest, and predicts what it costs (method.md section 5; The LLM
// Surgeon, section 3.3). Over alive indices, with S kept rows, T kept columns and Q what is removed now,
//
//	V = (G'_SS)⁻¹ G'_S: W A'_:T (A'_TT)⁻¹        Joint
//	½ tr(Dᵀ G D A),  D = new − old W              Predicted, with undamped factors
//
// G'_SS⁻¹G'_SS is the identity, so each step is W_S + X·W_Q with X = (G'_SS)⁻¹G'_SQ and so on the other side: one Cholesky
// factorisation of the kept part, and a solve for as many columns as are removed. The other way, through the inverse of the
// whole, −[G'⁻¹]_SQ([G'⁻¹]_QQ)⁻¹, gives the same (exact) but has to factor the whole: n³/3 + 2n²q against s³/3 + 2s²q FLOP
// with s = n−q, so it never pays where no factor is kept from the costs; keeping those would double the memory of factors.
//
// That is one product with damped factors; refit.go has the others.
//
// tolerance, which sums of three products and more need, is an estimate of what the solution costs above the least, as a share of
// that (change). 0 = what rounding allows.
func Apply(d device.Device, l Layer, alive, kept Kept, how Update, damp Damping, tolerance float64) (Result, error) {
	p := newPartition(alive, kept)
	if len(p.q) == 0 && len(p.u) == 0 { // the step is zero, and so is what it costs
		return Result{W: Restrict(d, l.W, alive)}, nil
	}
	w := d.Alloc(len(p.rows), len(p.cols), device.F64)
	d.Gather(l.W, p.rows, p.cols, w)
	defer d.Free(w)

	v := d.Alloc(len(p.rows), len(p.cols), device.F64)
	d.Zero(v)
	defer d.Free(v)
	var raised []Raised
	var iterations int
	if len(p.s) > 0 && len(p.t) > 0 {
		stays := gather(d, w, p.s, p.t)
		var err error
		switch {
		case how == None:
		case l.factored(damp):
			raised, err = refit(d, l, alive, p, how, damp, w, stays)
		default:
			raised, iterations, err = refitSum(d, l, alive, p, how, damp, tolerance, w, stays)
		}
		d.Scatter(stays, p.s, p.t, v)
		d.Free(stays) // before the prediction, which needs room
		if err != nil {
			return Result{}, err
		}
	}

	result := Result{Raised: raised, Iterations: iterations}
	err := result.step(d, l, p, w, v)
	return result, err
}

// step makes W of v, which is w after the step over alive rows and columns, and predicts what the step costs. v is lost.
func (r *Result) step(d device.Device, l Layer, p partition, w, v device.Tensor) (err error) {
	full := d.Alloc(l.W.Rows, l.W.Cols, device.F64)
	d.Zero(full)
	d.Scatter(v, p.rows, p.cols, full)
	d.Axpy(-1, w, v) // now D
	if r.Predicted, err = increase(d, l, p, v); err != nil {
		d.Free(full)
		return err
	}
	r.W = full
	return nil
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

// refit changes stays = W_ST into V. A side whose factor is the identity couples nothing: its X is 0.
func refit(d device.Device, l Layer, alive Kept, p partition, how Update, damp Damping, w, stays device.Tensor) ([]Raised, error) {
	var raised []Raised
	xl, xr := device.Tensor{}, device.Tensor{}
	defer func() { d.Free(xl, xr) }()
	rowStep, colStep := len(p.q) > 0 && l.G.N > 0, len(p.u) > 0 && l.A.N > 0
	if rowStep { // X_L = (G'_SS)⁻¹ G'_SQ
		g := newFactor(d, l.Name, "G", l.G, alive.Rows, damp.G)
		chol, err := g.cholesky(d, p.keptR)
		if err != nil {
			return nil, err
		}
		xl = g.block(d, p.keptR, p.goneR)
		d.CholeskySolve(device.Left, []device.Tensor{chol}, []device.Tensor{xl})
		d.Free(chol)
		raised = append(raised, g.raised(damp.G)...)
	}
	if colStep { // X_R = A'_UT (A'_TT)⁻¹
		a := newFactor(d, l.Name, "A", l.A, alive.Cols, damp.A)
		chol, err := a.cholesky(d, p.keptC)
		if err != nil {
			return nil, err
		}
		xr = a.block(d, p.goneC, p.keptC)
		d.CholeskySolve(device.Right, []device.Tensor{chol}, []device.Tensor{xr})
		d.Free(chol)
		raised = append(raised, a.raised(damp.A)...)
	}
	if rowStep { // V ← W_ST + X_L W_QT
		part := gather(d, w, p.q, p.t)
		d.Gemm(false, false, 1, xl, part, 1, stays)
		d.Free(part)
	}
	if colStep { // V ← V + Y_SU X_R; Y is W after the row step for Joint, before it for Sum
		part := gather(d, w, p.s, p.u)
		if how == Joint && rowStep {
			corner := gather(d, w, p.q, p.u)
			d.Gemm(false, false, 1, xl, corner, 1, part)
			d.Free(corner)
		}
		d.Gemm(false, false, 1, part, xr, 1, stays)
		d.Free(part)
	}
	return raised, nil
}

func gather(d device.Device, x device.Tensor, rows, cols []int32) device.Tensor {
	y := d.Alloc(len(rows), len(cols), x.Type)
	d.Gather(x, rows, cols, y)
	return y
}

// increase is ½ Σ_k tr(Dᵀ G_k D A_k) = ½ Σ_k Σ (G_k D) ∘ (D A_k) over alive indices, with undamped factors: 2·R²·C + 2·R·C²
// FLOP for each product.
func increase(d device.Device, l Layer, p partition, delta device.Tensor) (float64, error) {
	if len(p.rows) == 0 || len(p.cols) == 0 {
		return 0, nil
	}
	sums := d.Alloc(1, len(p.rows), device.F64)
	gd, da := d.Alloc(delta.Rows, delta.Cols, device.F64), d.Alloc(delta.Rows, delta.Cols, device.F64)
	defer d.Free(sums, gd, da)
	var total float64
	for _, term := range l.terms() {
		square := extract(d, term.G, p.rows)
		left(d, square, delta, gd)
		d.Free(square)
		square = extract(d, term.A, p.cols)
		right(d, delta, square, da)
		d.Free(square)
		d.RowDot(gd, da, sums)
		for _, x := range device.DownloadSlice[float64](d, sums) {
			total += x
		}
	}
	if err := d.Sync(); err != nil {
		return 0, fmt.Errorf("layer %s: %w", l.Name, err)
	}
	if math.IsNaN(total) || math.IsInf(total, 0) {
		return 0, fmt.Errorf("layer %s: the predicted increase of the loss is %v", l.Name, total)
	}
	return total / 2, nil
}
