package cpu

import (
	"math"
	"slices"

	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
)

// ElementCosts is cost_ij ← ½·w_ij²·r_i·c_j.
func (d *Device) ElementCosts(w, r, c, cost device.Tensor) {
	device.CheckElementCosts(w, r, c, cost)
	from, to := whole[float64](d, w), whole[float64](d, cost)
	rows, cols := elements[float64](d, r), elements[float64](d, c)
	parallel.For(w.Rows, rowGrain(w.Cols), func(_, i0, i1 int) {
		for i := i0; i < i1; i++ {
			half, out := rows[i]/2, to.row(i)
			for j, v := range from.row(i) {
				out[j] = half * (v * v) * cols[j]
			}
		}
	})
}

// key orders numbers from 0 up as they are; −0 becomes 0.
func key(v float64) uint64 { return math.Float64bits(v + 0) }

// Histogram counts elements by a digit of their keys. Each worker has its own counts.
func (d *Device) Histogram(x device.Tensor, prefix uint64, bits int, counts []int64) {
	digit := device.CheckHistogram(x, prefix, bits, counts)
	from := elements[float64](d, x)
	own := make([][]int64, parallel.Workers())
	parallel.For(len(from), grainElements, func(worker, i, j int) {
		if own[worker] == nil {
			own[worker] = make([]int64, len(counts))
		}
		into, down, mask := own[worker], 64-bits-digit, uint64(len(counts)-1)
		for _, v := range from[i:j] {
			if k := key(v) >> down; k>>digit == prefix {
				into[k&mask]++
			}
		}
	})
	for _, c := range own {
		for i, n := range c {
			counts[i] += n
		}
	}
}

// Compare tells how the elements stand to the limit.
func (d *Device) Compare(x device.Tensor, limit float64, marks []device.Order) {
	device.CheckCompare(x, marks)
	from := elements[float64](d, x)
	parallel.For(len(from), grainElements, func(_, i, j int) {
		out := marks[i:j]
		for k, v := range from[i:j] { // without branches: whether v is less is not to be guessed
			order := device.More
			if v < limit {
				order = device.Less
			}
			if v == limit {
				order = device.Equal
			}
			out[k] = order
		}
	})
}

// Smallest finds the n smallest of runs of m.
func (d *Device) Smallest(n, m int, x, sums device.Tensor, marks []bool) {
	device.CheckSmallest(n, m, x, sums, marks)
	from := elements[float64](d, x)
	if sums.IsZero() && marks == nil {
		return
	}
	var out []float64
	if !sums.IsZero() {
		out = elements[float64](d, sums)
	}
	parallel.For(len(from)/m, rowGrain(m), func(_, i, j int) {
		order := make([]int, m)
		for run := i; run < j; run++ {
			values := from[run*m : (run+1)*m]
			if n == 2 && m == 4 && marks == nil {
				if sum, ok := twoOfFour((*[4]float64)(values)); ok {
					out[run] = sum
					continue
				}
			}
			sortPlaces(order, values)
			sum := 0.
			for _, k := range order[:n] {
				sum += values[k]
			}
			if out != nil {
				out[run] = sum
			}
			if marks != nil {
				of := marks[run*m : (run+1)*m]
				clear(of)
				for _, k := range order[:n] {
					of[k] = true
				}
			}
		}
	})
}

// twoOfFour is the sum of the two smallest without a branch that is taken by chance: ten times as fast as sorting. ok is false
// where there may be a NaN.
func twoOfFour(v *[4]float64) (sum float64, ok bool) {
	a, b := min(v[0], v[1]), max(v[0], v[1])
	c, d := min(v[2], v[3]), max(v[2], v[3])
	least, next := min(a, c), min(max(a, c), min(b, d))
	all := (a + b) + (c + d)
	return 0 + least + next, all == all
}

// shortRun is up to where insertion is the fastest way to sort.
const shortRun = 24

// sortPlaces makes order the places of values in ascending order, equal ones as they stand.
func sortPlaces(order []int, values []float64) {
	if len(order) > shortRun {
		for k := range order {
			order[k] = k
		}
		slices.SortStableFunc(order, func(a, b int) int { return compare(values[a], values[b]) })
		return
	}
	for k, v := range values {
		at := k
		for ; at > 0 && compare(v, values[order[at-1]]) < 0; at-- {
			order[at] = order[at-1]
		}
		order[at] = k
	}
}

// compare puts NaN after all numbers.
func compare(a, b float64) int {
	switch {
	case a < b || b != b && a == a:
		return -1
	case a > b || a != a && b == b:
		return 1
	}
	return 0
}

// Divide is z_i ← x_i / y_i.
func (d *Device) Divide(x, y, z device.Tensor) {
	device.CheckDivide(x, y, z)
	a, b, c := elements[float64](d, x), elements[float64](d, y), elements[float64](d, z)
	parallel.For(len(a), grainElements, func(_, i, j int) {
		for k := i; k < j; k++ {
			c[k] = a[k] / b[k]
		}
	})
}

// DivideOuter is x_ij ← x_ij / (α + s_i·t_j).
func (d *Device) DivideOuter(alpha float64, s, t, x device.Tensor) {
	device.CheckDivideOuter(s, t, x)
	rows, cols, m := elements[float64](d, s), elements[float64](d, t), whole[float64](d, x)
	parallel.For(x.Rows, rowGrain(x.Cols), func(_, i0, i1 int) {
		for i := i0; i < i1; i++ {
			out := m.row(i)
			for j := range out {
				out[j] /= alpha + rows[i]*cols[j]
			}
		}
	})
}
