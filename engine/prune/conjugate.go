package prune

import (
	"fmt"
	"math"

	"surgeon/engine/device"
)

const (
	// residualLimit is where conjugate gradients have converged: the residual, measured by the preconditioner, as a share of the
	// right side's. It is far below what damping and sampling of the factors leave uncertain, and far above rounding.
	residualLimit = 1e-11
	// roundingLimit is the most residual with which a solve may end that rounding keeps from its limit.
	roundingLimit = 1e-6
	// maxIterations is when they are given up. What a good preconditioner leaves takes tens to hundreds; what takes thousands has
	// factors that are near singular, and more damping is what it needs.
	maxIterations = 5000
)

// conjugate is a symmetric positive definite system M x = b on a device, and a positive definite P near M⁻¹. Both write all of
// their second argument.
type conjugate struct {
	dev          device.Device
	most         int                      // iterations before it is given up
	limit        float64                  // of the residual where it has converged, as a share of the right side's, or of what x costs
	energy       float64                  // where it is not 0: xᵀMx − 2bᵀx + energy is twice what x costs
	apply        func(x, y device.Tensor) // y ← M x
	exact        func(x, y device.Tensor) // the same where apply is rounded to float32; nil for apply
	precondition func(r, z device.Tensor) // z ← P r
}

// solve is x ← M⁻¹ b by preconditioned conjugate gradients (Hestenes and Stiefel 1952; Golub and Van Loan, Matrix Computations,
// 11.5): M and P once per iteration. It ends where rᵀ P r ≤ limit² · bᵀ P b, or limit² times twice what x costs, for the residual
// r = b − M x made anew from x: the one that is carried along drifts away from it, and where they disagree the iteration starts
// again from where it is.
// Where that has not halved what was there the time before, rounding allows no better, and it ends too, if below
// roundingLimit: P and M with a condition of 1e16 leave 1e-8. ok is false for a system that is not positive definite.
func (c conjugate) solve(b, x device.Tensor) (iterations int, ok bool, err error) {
	d := c.dev
	alloc := func() device.Tensor { return d.Alloc(b.Rows, b.Cols, device.F64) }
	r, z, p, q := alloc(), alloc(), alloc(), alloc()
	defer func() { d.Free(r, z, p, q) }()
	if c.exact == nil {
		c.exact = c.apply
	}
	d.Zero(x)
	d.Copy(b, r)
	c.precondition(r, z)
	rho := dot(d, r, z)
	limit, cost := c.limit*c.limit*rho, c.energy
	if c.energy != 0 {
		limit = c.limit * c.limit * cost
	}
	if !(rho >= 0) || math.IsInf(rho, 0) { // P is not positive definite, or b is not finite
		return 0, false, d.Sync()
	}
	restart, anew, rounding := true, rho, rho*(roundingLimit*roundingLimit)
	for ; rho > limit; iterations++ {
		if iterations == c.most {
			if err := d.Sync(); err != nil {
				return iterations, false, err
			}
			return iterations, false, fmt.Errorf("the update has not converged: after %d steps of conjugate gradients the residual is %.2g times what it may be; "+
				"it needs a higher damping, a higher --tolerance, or more calibration text", iterations, math.Sqrt(rho/limit))
		}
		if restart {
			d.Copy(z, p)
			restart = false
		}
		c.apply(p, q)
		curvature := dot(d, p, q)
		if !(curvature > 0) || math.IsInf(curvature, 0) {
			return iterations, false, d.Sync()
		}
		if c.energy != 0 {
			cost -= rho / curvature * rho
			limit = c.limit * c.limit * cost
		}
		d.Axpy(rho/curvature, p, x)
		d.Axpy(-rho/curvature, q, r)
		c.precondition(r, z)
		before := rho
		if rho = dot(d, r, z); rho <= limit {
			c.exact(x, q)
			d.Copy(b, r)
			d.Axpy(-1, q, r)
			c.precondition(r, z)
			if rho, restart = dot(d, r, z), true; !(rho >= -limit) {
				return iterations, false, d.Sync()
			}
			if rho <= rounding && rho > anew/4 {
				limit = rho
			}
			anew = rho
			continue
		}
		d.Axpy(rho/before, p, z) // the new direction, in place of z, which is not needed any more
		p, z = z, p
	}
	return iterations, rho <= limit, d.Sync()
}

// dot is Σ u∘v.
func dot(d device.Device, u, v device.Tensor) (total float64) {
	sums := d.Alloc(1, u.Rows, device.F64)
	defer d.Free(sums)
	d.RowDot(u, v, sums)
	for _, s := range device.DownloadSlice[float64](d, sums) {
		total += s
	}
	return total
}
