package prune

import (
	"surgeon/engine/device"
)

// newMean is (E_G ⊗ E_A) diag(f)⁻¹ (E_G ⊗ E_A)ᵀ, f the diagonal of F'/unit in that basis,
//
//	f_ij = 1/unit·Σ_k (E_Gᵀ G_k E_G)_ii (E_Aᵀ A_k E_A)_jj,  E_G the eigenvectors of Σ_k mean(diag A_k)·G_k, E_A those of Σ_k mean(diag G_k)·A_k
//
// with the damped factors of the first product. Those sums are the means of F' over its inputs, and over its outputs. On
// random factors with eigenvalues like 1/n², 40×48 and damping 0.01, it takes 262 steps and the inverse of the first product alone
// 1033: there the large directions of the others meet its small ones.
func newMean(d device.Device, l Layer, products []product, rows, cols []int32, damp Damping) (*spectral, error) {
	if err := l.refuse(damp); err != nil {
		return nil, err
	}
	var gs, as []*factor
	for _, p := range products {
		gs, as = append(gs, p.g), append(as, p.a)
	}
	r, s, err := meanBasis(d, gs, as, rows)
	if err != nil {
		return nil, err
	}
	c, t, err := meanBasis(d, as, gs, cols)
	if err != nil {
		r.free(d)
		d.Free(s)
		return nil, err
	}
	f := d.Alloc(len(rows), len(cols), device.F64)
	d.Gemm(true, false, 1/products[0].unit(), s, t, 0, f)
	d.Free(s, t)
	return &spectral{rows: r, cols: c, diagonal: f}, nil
}

// meanBasis is the basis of the eigenvectors E of Σ_k mean(diag others_k)·own_k, and the diagonals of Eᵀ own_k E, one row
// for each k.
func meanBasis(d device.Device, own, others []*factor, idx []int32) (basis, device.Tensor, error) {
	n := len(idx)
	mean := d.Alloc(n, n, device.F64)
	d.Zero(mean)
	for k, f := range own {
		weight := others[k].mean * (1 + others[k].share)
		if f.identity() {
			d.AddDiagonal(weight, mean)
			continue
		}
		x := f.damped(d, idx)
		d.Axpy(weight, x, mean)
		d.Free(x)
	}
	b, _, err := eigh(d, own[0], mean)
	d.Free(mean)
	if err != nil {
		return basis{}, device.Tensor{}, err
	}
	diagonals, product := fill(d, len(own), n, 1), d.Alloc(n, n, device.F64)
	defer d.Free(product)
	for k, f := range own {
		if f.identity() {
			continue
		}
		x := f.damped(d, idx)
		d.Gemm(false, false, 1, x, b.k, 0, product)
		d.ColDot(product, b.k, diagonals.Slice(k, k+1))
		d.Free(x)
	}
	return b, diagonals, nil
}
