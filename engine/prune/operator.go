package prune

import (
	"errors"
	"fmt"

	"surgeon/engine/device"
)

// operator is X ↦ Σ_k G_k X A_k + λX for R×C matrices over alive indices, F' of the row-major vec(X) without F' itself:
// 2·R²·C + 2·R·C² FLOP for each product. All of it is over unit, as in spectral.
type operator struct {
	dev    device.Device
	sides  [][2]device.Tensor // G_k and A_k, zero for the identity
	units  [][2]float64       // of the factors
	lambda float64
	unit   float64       // of the first product
	z      device.Tensor // R×C, to work in
	most   int           // steps of conjugate gradients
	limit  float64       // of their residual
	rounds bool          // products are made in float32 on the way
}

// product is one Kronecker product of a curvature, as the factors that make it.
type product struct{ g, a *factor }

// unit is that of both factors.
func (p product) unit() float64 { return p.g.unit() * p.a.unit() }

// newProducts are the products of a layer; the factors of the first take the damping, unless it is joint.
func newProducts(d device.Device, l Layer, alive Kept, damp Damping) []product {
	if damp.Joint {
		damp.G, damp.A = 0, 0
	}
	var all []product
	for k, t := range l.terms() {
		if k > 0 {
			damp.G, damp.A = 0, 0
		}
		all = append(all, product{
			g: newFactor(d, l.Name, "G", t.G, alive.Rows, damp.G),
			a: newFactor(d, l.Name, "A", t.A, alive.Cols, damp.A),
		})
	}
	return all
}

// newOperator makes the matrices of the products, with the damping that is in force by now.
func newOperator(d device.Device, products []product, lambda, limit float64) operator {
	o := operator{dev: d, lambda: lambda, unit: products[0].unit(), most: maxIterations, limit: limit, z: d.Alloc(len(products[0].g.index), len(products[0].a.index), device.F64)}
	for _, p := range products {
		o.sides = append(o.sides, [2]device.Tensor{p.g.damped(d, p.g.index), p.a.damped(d, p.a.index)})
		o.units = append(o.units, [2]float64{p.g.unit(), p.a.unit()})
	}
	return o
}

func (o operator) free() {
	for _, s := range o.sides {
		o.dev.Free(s[0], s[1])
	}
	o.dev.Free(o.z)
}

// apply is y ← (Σ_k G_k x A_k + λx)/unit.
func (o operator) apply(x, y device.Tensor) {
	o.dev.Zero(y)
	for _, s := range o.sides {
		switch g, a := s[0], s[1]; {
		case g.IsZero() && a.IsZero():
			o.dev.Axpy(1/o.unit, x, y)
		case g.IsZero():
			o.dev.Gemm(false, false, 1/o.unit, x, a, 1, y)
		case a.IsZero():
			o.dev.Gemm(false, false, 1/o.unit, g, x, 1, y)
		default:
			o.dev.Gemm(false, false, 1, g, x, 0, o.z)
			o.dev.Gemm(false, false, 1/o.unit, o.z, a, 1, y)
		}
	}
	if o.lambda != 0 {
		o.dev.Axpy(o.lambda/o.unit, x, y)
	}
}

// rounded is apply by products in float32, of factors over their units, without joint damping, and what gives back its memory.
func (o operator) rounded() (apply func(x, y device.Tensor), free func()) {
	d := o.dev
	var sides [][2]device.Tensor
	for k, s := range o.sides {
		var r [2]device.Tensor
		for side, f := range s {
			if f.IsZero() {
				continue
			}
			over := d.Alloc(f.Rows, f.Rows, device.F64)
			d.Zero(over)
			d.Axpy(1/o.units[k][side], f, over)
			r[side] = narrowed(d, over)
			d.Free(over)
		}
		sides = append(sides, r)
	}
	from, half, to := d.Alloc(o.z.Rows, o.z.Cols, device.F32), d.Alloc(o.z.Rows, o.z.Cols, device.F32), d.Alloc(o.z.Rows, o.z.Cols, device.F32)
	apply = func(x, y device.Tensor) {
		d.Copy(x, from)
		d.Zero(y)
		for k, s := range sides {
			left(d, s[0], from, half)
			right(d, half, s[1], to)
			d.Copy(to, o.z)
			d.Axpy(o.units[k][0]*o.units[k][1]/o.unit, o.z, y)
		}
	}
	return apply, func() {
		for _, s := range sides {
			d.Free(s[0], s[1])
		}
		d.Free(from, half, to)
	}
}

// left is y ← g·x, where a zero g stands for the identity.
func left(d device.Device, g, x, y device.Tensor) {
	if g.IsZero() {
		d.Copy(x, y)
		return
	}
	d.Gemm(false, false, 1, g, x, 0, y)
}

// right is y ← x·a, where a zero a stands for the identity.
func right(d device.Device, x, a, y device.Tensor) {
	if a.IsZero() {
		d.Copy(x, y)
		return
	}
	d.Gemm(false, false, 1, x, a, 0, y)
}

// minimise changes x where keeps is 1 so that ½ vec(x)ᵀ F' vec(x) is least, and leaves it where keeps is +∞; where it
// changes x, x is 0 on entry. With K the entries that are changed and Q the others, that is F'_KK x_K = −F'_KQ x_Q, solved by
// conjugate gradients with precondition, z ← P r for a symmetric positive definite P near F'_KK⁻¹ that makes z 0 outside K.
func (o operator) minimise(layer string, keeps device.Tensor, precondition func(r, z device.Tensor), x device.Tensor) (iterations int, err error) {
	d := o.dev
	b, y := d.Alloc(x.Rows, x.Cols, device.F64), d.Alloc(x.Rows, x.Cols, device.F64)
	defer d.Free(b, y)
	restricted := func(apply func(x, y device.Tensor)) func(x, y device.Tensor) {
		return func(x, y device.Tensor) {
			apply(x, y)
			d.Divide(y, keeps, y)
		}
	}
	o.apply(x, y)
	energy := dot(d, x, y)
	d.Divide(y, keeps, y)
	d.Zero(b)
	d.Axpy(-1, y, b)
	c := conjugate{dev: d, most: o.most, limit: o.limit, energy: energy, apply: restricted(o.apply), precondition: precondition}
	if o.rounds {
		rounded, free := o.rounded()
		defer free()
		c.apply, c.exact = restricted(rounded), c.apply
	}
	iterations, ok, err := c.solve(b, y)
	if err == nil && !ok {
		err = errNotPositive
	}
	if err != nil {
		return iterations, fmt.Errorf("layer %s: %w", layer, err)
	}
	d.Axpy(1, y, x)
	return iterations, nil
}

var errNotPositive = errors.New("the curvature is not positive definite over the weights of an update, or not finite; it needs a higher damping, or fewer products")

// fill is a new rows×cols matrix of one value.
func fill(d device.Device, rows, cols int, value float64) device.Tensor {
	x, row := d.Alloc(rows, cols, device.F64), make([]float64, cols)
	for i := range row {
		row[i] = value
	}
	b, none, nothing := device.NewFrom(d, row, 1, cols, device.F64), d.Alloc(rows, 0, device.F64), d.Alloc(cols, 0, device.F64)
	d.Linear(none, nothing, b, 0, x) // a product over no columns is 0
	d.Free(b, none, nothing)
	return x
}
