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
func refitSum(d device.Device, l Layer, alive Kept, p partition, how Update, damp Damping, tolerance float64, w, stays device.Tensor) (raised []Raised, iterations int, err error) {
	// step adds D at the kept rows and columns to stays.
	step := func(rows, cols []int32) error {
		keeps := fill(d, w.Rows, w.Cols, math.Inf(1))
		part := fill(d, len(rows), len(cols), 1)
		d.Scatter(part, rows, cols, keeps)
		d.Free(part)
		delta, more, n, err := change(d, l, alive, damp, tolerance, w, keeps, rows, cols, true)
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

// refitMasked adds to v, which is w over alive rows and columns, the step that re-fits all weights but those that go, which it
// leaves near 0: with D = v − w, ½ vec(D)ᵀF'vec(D) is least subject to D = −W on what goes, for every curvature but one product of
// damped factors (groups.go). All that go are one group.
//
// Where F' has an exact inverse, D = −F'⁻¹Y for the Y that is 0 but on what goes, Q, and [F'⁻¹]_QQ y = w_Q there: conjugate
// gradients with the diagonal of F'⁻¹ as preconditioner, an F'⁻¹ at every step. On factors with eigenvalues like 1/n² that takes
// a third of the steps of the system for what stays (change), each of two thirds of the work, and a residual of 1e-2 is then
// near the optimum, as TestTolerance prints for a layer of 40×48 (larger ones are farther from it): F'⁻¹ is large where it costs little to be wrong, F' where it costs much.
func refitMasked(d device.Device, l Layer, alive Kept, places removal, damp Damping, grouping Grouping, w, v device.Tensor) (Result, error) {
	if len(l.terms()) > 2 {
		keeps := fill(d, w.Rows, w.Cols, 1)
		defer d.Free(keeps)
		places.set(d, keeps, math.Inf(1))
		delta, raised, iterations, err := change(d, l, alive, damp, grouping.Tolerance, w, keeps, span(0, w.Rows), span(0, w.Cols), false)
		if err == nil {
			d.Axpy(1, delta, v)
			d.Free(delta)
		}
		return Result{Raised: raised, Iterations: iterations}, err
	}
	products := newProducts(d, l, alive, damp)
	inverse, err := newSpectral(d, l, products, products[0].g.index, products[0].a.index, damp)
	if err != nil {
		return Result{}, err
	}
	defer inverse.free(d)
	goes, diagonal := places.mark(d, w.Rows), inverse.inverseDiagonal(d)
	b, y := d.Alloc(w.Rows, w.Cols, device.F64), d.Alloc(w.Rows, w.Cols, device.F64)
	defer d.Free(goes, diagonal, b, y)
	d.Divide(w, goes, b)
	system := removedSystem{d: d, goes: goes, diagonal: diagonal, limit: grouping.limit(), inverse: func(x, fx device.Tensor) {
		d.Copy(x, fx)
		inverse.solve(d, fx)
	}}
	if system.limit >= float32Limit {
		var free func()
		system.rounded, free = inverse.rounded(d)
		defer free()
	}
	iterations, ok, err := system.solve(b, y)
	if err == nil && !ok {
		err = errNotPositive
	}
	if err != nil {
		return Result{}, fmt.Errorf("layer %s: %w", l.Name, err)
	}
	inverse.solve(d, y)
	d.Axpy(-1, y, v)
	return Result{Raised: inverse.raised, Iterations: iterations}, nil
}

// change is D over alive rows and columns: −W where keeps is +∞, and the least of ½ vec(D)ᵀF'vec(D) where it is 1, which is
// only at rows × cols, positions among the alive; whole says that it is at all of them. The caller frees it.
//
// Conjugate gradients are preconditioned by the inverse of F' over rows × cols. For one product with joint damping and for two
// products that is exact (spectral.go), and all of rows × cols are kept: one step, and a second one where rounding asks for it,
// whatever the tolerance. (The inverse of the first of two products is cheaper to make, and takes 776 steps for the 2 of
// TestStepsOfConjugateGradients.) For more products it is near it (newMean) and cut to the weights that are kept, and the steps end when
// what it makes of the residual is the tolerance's share of what D costs. That estimates what D costs too much: on random factors with
// eigenvalues like 1/n² it is up to 5 times too low for rows and columns, and 10 to 50 times too high for single weights. Those take
// products in float64 all the way, for with float32 they need half as many steps again.
func change(d device.Device, l Layer, alive Kept, damp Damping, tolerance float64, w, keeps device.Tensor, rows, cols []int32, whole bool) (delta device.Tensor, raised []Raised, iterations int, err error) {
	products := newProducts(d, l, alive, damp)
	r, c := at(products[0].g.index, rows), at(products[0].a.index, cols)
	var v *spectral
	lambda, limit := 0., residualLimit
	if len(products) > 2 {
		v, err = newMean(d, l, products, r, c, damp)
		limit = max(limit, math.Sqrt(tolerance))
	} else {
		v, err = newSpectral(d, l, products, r, c, damp)
	}
	if err != nil {
		return device.Tensor{}, nil, 0, err
	}
	if damp.Joint {
		lambda = v.alpha * v.unit
	}
	o := newOperator(d, products, lambda, limit) // after the inverse, which may have raised a damping
	o.rounds = whole && len(products) > 2 && tolerance >= float32Limit
	part := d.Alloc(len(rows), len(cols), device.F64)
	defer func() { d.Free(part); o.free(); v.free(d) }()
	inverse := v.solve
	if o.rounds {
		rounded, free := v.rounded(d)
		defer free()
		inverse = func(d device.Device, x device.Tensor) { rounded(x, x) }
	}

	delta = d.Alloc(w.Rows, w.Cols, device.F64)
	kept := d.Alloc(w.Rows, w.Cols, device.F64)
	d.Divide(w, keeps, kept) // W where it is kept, 0 elsewhere
	d.Copy(kept, delta)
	d.Axpy(-1, w, delta)
	d.Free(kept)
	iterations, err = o.minimise(l.Name, keeps, func(r, z device.Tensor) {
		d.Gather(r, rows, cols, part)
		inverse(d, part)
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
