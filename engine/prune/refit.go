package prune

import (
	"fmt"
	"math"

	"surgeon/engine/device"
)

// refitSum changes stays = W_ST into V for every curvature but one product of damped factors. With D = V − W, which is −W on
// what is removed, ½ vec(D)ᵀF'vec(D) is least where
//
//	Σ_k G_k,SS D_ST A_k,TT + λ D_ST = −[Σ_k G_k D° A_k]_ST,  D° = D with zeros at S × T      (the factors of F' )
//
// Sum adds the step for the rows alone and that for the columns alone, each such a solve with all of the other side kept.
func refitSum(d device.Device, l Layer, alive Kept, p partition, how Update, damp Damping, w, stays device.Tensor) (raised []Raised, iterations int, err error) {
	// step adds D at the kept rows and columns to stays.
	step := func(rows, cols []int32) error {
		keeps := fill(d, w.Rows, w.Cols, math.Inf(1))
		part := fill(d, len(rows), len(cols), 1)
		d.Scatter(part, rows, cols, keeps)
		d.Free(part)
		delta, more, n, err := change(d, l, alive, damp, residualLimit, w, keeps, rows, cols)
		d.Free(keeps)
		if err != nil {
			return err
		}
		part = gather(d, delta, p.s, p.t)
		d.Axpy(1, part, stays)
		d.Free(part, delta)
		raised, iterations = append(raised, more...), iterations+n
		return nil
	}
	if how == Joint {
		err = step(p.s, p.t)
		return raised, iterations, err
	}
	if len(p.q) > 0 {
		err = step(p.s, span(0, len(p.cols)))
	}
	if err == nil && len(p.u) > 0 {
		err = step(span(0, len(p.rows)), p.t)
	}
	return raised, iterations, err
}

// refitMasked removes single weights, marked in removed by their row-major place in the full R×C matrix, and re-fits all
// others at once: with D = new − old W, ½ vec(D)ᵀF'vec(D) is least subject to D = −W on what is removed, up to a residual of limit.
// It takes every curvature and damping. Predicted is as in Apply.
func refitMasked(d device.Device, l Layer, alive Kept, removed []bool, damp Damping, limit float64) (Result, error) {
	if len(removed) != l.W.Len() {
		return Result{}, fmt.Errorf("layer %s: %d marks for %d weights", l.Name, len(removed), l.W.Len())
	}
	p := newPartition(alive, alive)
	if len(p.rows) == 0 || len(p.cols) == 0 {
		return Result{W: Restrict(d, l.W, alive)}, nil
	}
	marks := make([]float32, 0, len(p.rows)*len(p.cols))
	for _, r := range p.rows {
		for _, c := range p.cols {
			mark := float32(1)
			if removed[int(r)*l.W.Cols+int(c)] {
				mark = float32(math.Inf(1))
			}
			marks = append(marks, mark)
		}
	}
	keeps := device.NewFrom(d, marks, len(p.rows), len(p.cols), device.F64)
	w := gather(d, l.W, p.rows, p.cols)
	defer d.Free(keeps, w)
	delta, raised, iterations, err := change(d, l, alive, damp, limit, w, keeps, span(0, len(p.rows)), span(0, len(p.cols)))
	if err != nil {
		return Result{}, err
	}
	defer d.Free(delta)
	d.Axpy(1, delta, w)
	predicted, err := increase(d, l, p, delta)
	if err != nil {
		return Result{}, err
	}
	full := d.Alloc(l.W.Rows, l.W.Cols, device.F64)
	d.Zero(full)
	d.Scatter(w, p.rows, p.cols, full)
	return Result{W: full, Predicted: predicted, Raised: raised, Iterations: iterations}, nil
}

// change is D over alive rows and columns: −W where keeps is +∞, and the least of ½ vec(D)ᵀF'vec(D) where it is 1, which is
// only at rows × cols, positions among the alive. The caller frees it.
//
// Conjugate gradients are preconditioned by the inverse of F' over rows × cols (inverse.go), cut to the weights that are kept.
// Where all of rows × cols are, and F' has an exact inverse, it is the solution already: one step, and a second one where
// rounding asks for it. Where single weights are removed it differs from the inverse of F'_KK by a matrix whose rank is no
// more than their number, and never is smaller.
func change(d device.Device, l Layer, alive Kept, damp Damping, limit float64, w, keeps device.Tensor, rows, cols []int32) (delta device.Tensor, raised []Raised, iterations int, err error) {
	products := newProducts(d, l, alive, damp)
	v, err := newInverse(d, l, products, at(products[0].g.index, rows), at(products[0].a.index, cols), damp)
	if err != nil {
		return device.Tensor{}, nil, 0, err
	}
	o := newOperator(d, products, v.lambda, limit) // after the inverse, which may have raised a damping
	part := d.Alloc(len(rows), len(cols), device.F64)
	defer func() { d.Free(part); o.free(); v.free() }()

	delta = d.Alloc(w.Rows, w.Cols, device.F64)
	kept := d.Alloc(w.Rows, w.Cols, device.F64)
	d.Divide(w, keeps, kept) // W where it is kept, 0 elsewhere
	d.Copy(kept, delta)
	d.Axpy(-1, w, delta)
	d.Free(kept)
	iterations, err = o.minimise(l.Name, keeps, func(r, z device.Tensor) {
		d.Gather(r, rows, cols, part)
		v.solve(part)
		d.Zero(z)
		d.Scatter(part, rows, cols, z)
		d.Divide(z, keeps, z)
	}, delta)
	if err != nil {
		d.Free(delta)
		return device.Tensor{}, nil, 0, err
	}
	return delta, v.raised, iterations, nil
}

// at are the positions at the places idx.
func at(positions, idx []int32) []int32 {
	x := make([]int32, len(idx))
	for i, k := range idx {
		x[i] = positions[k]
	}
	return x
}
