package prune

import (
	"fmt"
	"math"

	"surgeon/engine/device"
)

// refitSum changes stays = W_ST into V for every curvature but one product of damped factors. With D = V − W, which is −W on
// what is removed, ½ vec(D)ᵀF'vec(D) is least where
//
//	Σ_k G_k,SS D_ST A_k,TT + λ D_ST = [Σ_k G_k W° A_k]_ST,  W° = W with zeros at S × T      (the first factors damped)
//
// One product with joint damping is solved directly, in the eigenbases of G_SS and A_TT; a sum by conjugate gradients with the
// inverse of its first product over S × T as preconditioner, whose eigenvalues are then 1 and above. Sum adds the step for
// the rows alone and that for the columns alone, each such a solve with all of the other side kept.
func refitSum(d device.Device, l Layer, alive Kept, p partition, how Update, damp Damping, w, stays device.Tensor) (raised []Raised, iterations int, err error) {
	if err := l.refuse(damp); err != nil {
		return nil, 0, err
	}
	// step adds D at the kept rows and columns to stays.
	step := func(rows, cols []int32) error {
		solve := sumStep
		if damp.Joint {
			solve = jointStep
		}
		delta, more, n, err := solve(d, l, alive, damp, w, rows, cols)
		if err != nil {
			return err
		}
		part := gather(d, delta, p.s, p.t)
		d.Axpy(1, part, stays)
		d.Free(part, delta)
		raised, iterations = append(raised, more...), iterations+n
		return nil
	}
	if how == Joint {
		return raised, iterations, step(p.s, p.t)
	}
	if len(p.q) > 0 {
		err = step(p.s, all(len(p.cols)))
	}
	if err == nil && len(p.u) > 0 {
		err = step(all(len(p.rows)), p.t)
	}
	return raised, iterations, err
}

// all lists 0 to n−1.
func all(n int) []int32 {
	x := make([]int32, n)
	for i := range x {
		x[i] = int32(i)
	}
	return x
}

// jointStep is D, R×C, at the kept rows and columns, positions among the alive.
func jointStep(d device.Device, l Layer, alive Kept, damp Damping, w device.Tensor, rows, cols []int32) (device.Tensor, []Raised, int, error) {
	products := newProducts(d, l, alive, damp)
	o := newOperator(d, products, 0) // λ·W° is 0 at S × T
	gone, delta := d.Alloc(w.Rows, w.Cols, device.F64), d.Alloc(w.Rows, w.Cols, device.F64)
	defer d.Free(gone)
	nothing := d.Alloc(len(rows), len(cols), device.F64)
	d.Zero(nothing)
	d.Copy(w, gone)
	d.Scatter(nothing, rows, cols, gone)
	d.Free(nothing)
	o.apply(gone, delta)
	o.free()
	x := gather(d, delta, rows, cols)
	defer d.Free(x)
	s, err := newSpectral(d, l, products, at(products[0].g.index, rows), at(products[0].a.index, cols), damp)
	if err != nil {
		d.Free(delta)
		return device.Tensor{}, nil, 0, err
	}
	defer s.free(d)
	s.solve(d, x)
	d.Zero(delta)
	d.Scatter(x, rows, cols, delta)
	return delta, s.raised, 0, nil
}

// sumStep is D, R×C, at the kept rows and columns, positions among the alive; it is −W elsewhere.
func sumStep(d device.Device, l Layer, alive Kept, damp Damping, w device.Tensor, rows, cols []int32) (device.Tensor, []Raised, int, error) {
	products := newProducts(d, l, alive, damp)
	first := products[0]
	// Factored first: where that raises a damping, the operator takes it.
	lg, err := first.g.cholesky(d, at(first.g.index, rows))
	if err != nil {
		return device.Tensor{}, nil, 0, err
	}
	defer d.Free(lg)
	la, err := first.a.cholesky(d, at(first.a.index, cols))
	if err != nil {
		return device.Tensor{}, nil, 0, err
	}
	defer d.Free(la)

	keeps := fill(d, w.Rows, w.Cols, math.Inf(1))
	part := fill(d, len(rows), len(cols), 1)
	d.Scatter(part, rows, cols, keeps)
	defer d.Free(keeps, part)
	precondition := func(r, z device.Tensor) { // z_ST ← (G₁'_SS)⁻¹ r_ST (A₁'_TT)⁻¹
		d.Gather(r, rows, cols, part)
		solveBoth(d, lg, la, part)
		d.Zero(z)
		d.Scatter(part, rows, cols, z)
	}
	delta, iterations, err := minimised(d, l.Name, newOperator(d, products, 0), keeps, precondition, w)
	return delta, append(first.g.raised(damp.G), first.a.raised(damp.A)...), iterations, err
}

// minimised is D: −W where keeps is +∞, and the least of ½ vec(D)ᵀF'vec(D) where it is 1. It frees the operator.
func minimised(d device.Device, layer string, o operator, keeps device.Tensor, precondition func(r, z device.Tensor), w device.Tensor) (device.Tensor, int, error) {
	defer o.free()
	delta, kept := d.Alloc(w.Rows, w.Cols, device.F64), d.Alloc(w.Rows, w.Cols, device.F64)
	d.Divide(w, keeps, kept) // W at K, 0 elsewhere
	d.Copy(kept, delta)
	d.Axpy(-1, w, delta)
	d.Free(kept)
	n, err := o.minimise(layer, keeps, precondition, delta)
	if err != nil {
		d.Free(delta)
		return device.Tensor{}, n, err
	}
	return delta, n, nil
}

// solveBoth is x ← (lg·lgᵀ)⁻¹ x (la·laᵀ)⁻¹; a zero factor stands for the identity.
func solveBoth(d device.Device, lg, la, x device.Tensor) {
	if !lg.IsZero() {
		d.CholeskySolve(device.Left, lg, x)
	}
	if !la.IsZero() {
		d.CholeskySolve(device.Right, la, x)
	}
}

func at(positions, idx []int32) []int32 {
	x := make([]int32, len(idx))
	for i, k := range idx {
		x[i] = positions[k]
	}
	return x
}

// refitMasked removes single weights, marked in removed by their row-major place in the full R×C matrix, and re-fits all
// others at once: with D = new − old W, ½ vec(D)ᵀF'vec(D) is least subject to D = −W on what is removed. It takes every curvature
// and damping, and conjugate gradients for all of them. The preconditioner is an inverse over all alive weights, of the
// first product, or of F' itself with joint damping, cut to the weights that stay. Its product with F' over those differs
// from the identity by no more than a matrix whose rank is the number of removed weights, with eigenvalues of 1 and above.
// Predicted is as in Apply.
func refitMasked(d device.Device, l Layer, alive Kept, removed []bool, damp Damping) (Result, error) {
	if len(removed) != l.W.Len() {
		return Result{}, fmt.Errorf("layer %s: %d marks for %d weights", l.Name, len(removed), l.W.Len())
	}
	if err := l.refuse(damp); err != nil {
		return Result{}, err
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

	products := newProducts(d, l, alive, damp)
	var inverse func(x device.Tensor)
	var raised []Raised
	var lambda float64
	if l.factored(damp) || !damp.Joint {
		first := products[0]
		lg, err := first.g.cholesky(d, first.g.index)
		if err != nil {
			return Result{}, err
		}
		defer d.Free(lg)
		la, err := first.a.cholesky(d, first.a.index)
		if err != nil {
			return Result{}, err
		}
		defer d.Free(la)
		inverse = func(x device.Tensor) { solveBoth(d, lg, la, x) }
		raised = append(first.g.raised(damp.G), first.a.raised(damp.A)...)
	} else {
		s, err := newSpectral(d, l, products, p.rows, p.cols, damp)
		if err != nil {
			return Result{}, err
		}
		defer s.free(d)
		inverse = func(x device.Tensor) { s.solve(d, x) }
		raised, lambda = s.raised, s.alpha
	}
	precondition := func(r, z device.Tensor) {
		d.Copy(r, z)
		inverse(z)
		d.Divide(z, keeps, z)
	}
	delta, iterations, err := minimised(d, l.Name, newOperator(d, products, lambda), keeps, precondition, w)
	if err != nil {
		return Result{}, err
	}
	defer d.Free(delta)
	predicted, err := increase(d, l, p, delta)
	if err != nil {
		return Result{}, err
	}
	full := d.Alloc(l.W.Rows, l.W.Cols, device.F64)
	d.Zero(full)
	d.Axpy(1, delta, w)
	d.Scatter(w, p.rows, p.cols, full)
	return Result{W: full, Predicted: predicted, Raised: raised, Iterations: iterations}, nil
}
