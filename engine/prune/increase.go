package prune

import (
	"fmt"
	"math"

	"surgeon/engine/device"
)

// increase is ½ Σ_k tr(Dᵀ G_k D A_k) = ½ Σ_k Σ (G_k D) ∘ (D A_k) over alive indices, with undamped factors: 2·R²·C + 2·R·C²
// FLOP for each product, both products PredictionRows at a time. delta, D, is freed.
func increase(d device.Device, l Layer, p partition, delta device.Tensor) (float64, error) {
	defer d.Free(delta)
	if len(p.rows) == 0 || len(p.cols) == 0 {
		return 0, nil
	}
	rows := PredictionRows(delta.Rows)
	both, sums := d.Alloc(2*rows, delta.Cols, device.F64), d.Alloc(delta.Rows, 1, device.F64)
	defer d.Free(both, sums)
	var total float64
	for _, term := range l.terms() {
		g, a := extract(d, term.G, p.rows), extract(d, term.A, p.cols)
		for from := 0; from < delta.Rows; from += rows {
			to := min(from+rows, delta.Rows)
			x, y, part := both.Slice(0, to-from), both.Slice(rows, rows+to-from), delta.Slice(from, to)
			if g.IsZero() {
				d.Copy(part, x)
			} else {
				d.Gemm(false, false, 1, g.Slice(from, to), delta, 0, x)
			}
			right(d, part, a, y)
			d.RowDot(x, y, sums.Slice(from, to).Reshape(1, to-from))
		}
		d.Free(g, a)
		for _, s := range device.DownloadSlice[float64](d, sums) {
			total += s
		}
	}
	return checked(d, l, total/2)
}

// PredictionRows is how many of so many rows: few, for the memory, and enough for a product to keep a device busy.
func PredictionRows(rows int) int { return (rows + 7) / 8 }

// increase is the same for a joint step, whose D has no more rank than rows and columns go:
//
//	D = P·M   P = | X_L  Y |   M = | W_QT  W_QU |   Y = W_SU + X_L W_QU
//	              | −I   0 |       | X_R    −I  |
//
// rows S, Q and columns T, U in that order. So ½ Σ_k tr(Dᵀ G_k D A_k) = ½ Σ_k Σ (Pᵀ G_k P) ∘ (M A_k Mᵀ), with n = |Q| + |U| columns of P:
// 2n·(R² + C²) + 2n²·(R + C) FLOP for each product. x and w are freed as soon as they are in P and M.
func (x *reach) increase(d device.Device, l Layer, p partition, w device.Tensor) (float64, error) {
	down, across := x.outer(d, p, w)
	x.free(d)
	d.Free(w)
	n := across.Rows
	pgp, mam := d.Alloc(n, n, device.F64), d.Alloc(n, n, device.F64)
	defer d.Free(down, across, pgp, mam)
	var total float64
	for _, term := range l.terms() {
		square, gp := extract(d, term.G, p.rows), d.Alloc(down.Rows, n, device.F64)
		left(d, square, down, gp)
		d.Gemm(true, false, 1, down, gp, 0, pgp)
		d.Free(square, gp)
		square, ma := extract(d, term.A, p.cols), d.Alloc(n, across.Cols, device.F64)
		right(d, across, square, ma)
		d.Gemm(false, true, 1, ma, across, 0, mam)
		d.Free(square, ma)
		total += dot(d, pgp, mam)
	}
	return checked(d, l, total/2)
}

// fewGo says whether increase by rank is worth it where so many rows and columns go: up to here it is less work than by D itself, and takes no more memory than the costs did.
func fewGo(rows, cols, gone int) bool { return 2*gone <= min(rows, cols) }

// outer is P and M. The caller frees them.
func (x *reach) outer(d device.Device, p partition, w device.Tensor) (down, across device.Tensor) {
	q, u := len(p.q), len(p.u)
	down, across = d.Alloc(len(p.rows), q+u, device.F64), d.Alloc(q+u, len(p.cols), device.F64)
	d.Zero(down)
	d.Zero(across)
	scatter := func(part device.Tensor, rows, cols []int32, to device.Tensor) {
		d.Scatter(part, rows, cols, to)
		d.Free(part)
	}
	if q > 0 {
		columns := counting(0, q)
		if !x.rows.IsZero() {
			d.Scatter(x.rows, p.s, columns, down)
		}
		scatter(scaledIdentity(d, -1, q), p.q, columns, down)
		d.Gather(w, p.q, nil, across.Slice(0, q))
	}
	if u > 0 {
		y, columns, rows := gather(d, w, p.s, p.u), counting(q, u), across.Slice(q, q+u)
		x.rowStep(d, p, w, y)
		scatter(y, p.s, columns, down)
		if !x.cols.IsZero() {
			d.Scatter(x.cols, nil, p.t, rows)
		}
		scatter(scaledIdentity(d, -1, u), nil, p.u, rows)
	}
	return down, across
}

// counting is first, first+1, …, n of them.
func counting(first, n int) []int32 {
	x := make([]int32, n)
	for i := range x {
		x[i] = int32(first + i)
	}
	return x
}

// checked refuses a prediction that is no number, and one of a device that has failed.
func checked(d device.Device, l Layer, predicted float64) (float64, error) {
	if err := d.Sync(); err != nil {
		return 0, fmt.Errorf("layer %s: %w", l.Name, err)
	}
	if math.IsNaN(predicted) || math.IsInf(predicted, 0) {
		return 0, fmt.Errorf("layer %s: the predicted increase of the loss is %v", l.Name, predicted)
	}
	return predicted, nil
}
