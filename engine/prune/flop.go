package prune

// CostFLOP is the arithmetic of Costs for a layer of which nothing is dead: half of two products for the numerators, a
// factorisation and the diagonal of an inverse per side for the denominators.
func CostFLOP(rows, cols int) float64 {
	r, c := float64(rows), float64(cols)
	return r*r*c + r*c*c + 2*(r*r*r+c*c*c)/3
}

// CostUnitsFLOP is the arithmetic of CostUnits for a consumer of which nothing is dead, and units of so many columns: half a product
// and the diagonal of an inverse for single ones; else a product, an inverse, and for each unit a block of both and its inverse.
func CostUnitsFLOP(rows, cols, width int) float64 {
	r, c, w := float64(rows), float64(cols), float64(width)
	if width == 1 {
		return r*r*c + 2*c*c*c/3
	}
	return 2*r*r*c + 7*c*c*c/3 + 2*r*c*w + 7*c*w*w/3
}

// ApplyFLOP is the arithmetic of Apply with Joint, for a layer of which nothing is dead: per side a factorisation of what
// stays and a solve for what goes, the two steps, and the products for the predicted increase.
func ApplyFLOP(rows, cols int, kept Kept) float64 {
	r, c := float64(rows), float64(cols)
	keptRows, keptCols := kept.Count()
	s, t := float64(keptRows), float64(keptCols)
	q, u := r-s, c-t
	flop := 2*r*r*c + 2*r*c*c
	if n := q + u; fewGo(rows, cols, int(n)) {
		flop = 2*n*(r*r+c*c) + 2*n*n*(r+c)
	}
	if q > 0 {
		flop += s*s*s/3 + 2*s*s*q + 2*s*q*c
	}
	if u > 0 {
		flop += t*t*t/3 + 2*t*t*u + 2*s*u*t
	}
	return flop
}

// CostElementsFLOP is the arithmetic of CostElements: a factorisation and the diagonal of an inverse per side.
func CostElementsFLOP(rows, cols int) float64 {
	r, c := float64(rows), float64(cols)
	return 2 * (r*r*r + c*c*c) / 3
}

// StepsExpected is about how many steps of conjugate gradients the update of single weights takes with the usual tolerance:
// SmolLM2's layers, half of whose weights go, take as many in the mean with one product (update_steps in report.json), and single weights of
// three products with a damping of 1 about as many. With less damping those take more, rows and columns fewer.
const StepsExpected = 30

// ApplyElementsFLOP is the arithmetic of ApplyElements for a layer of which nothing is dead: two inverses, and two products for
// each step of conjugate gradients, for a last look at its residual, for the step itself, and for the predicted increase.
func ApplyElementsFLOP(rows, cols, steps int) float64 {
	r, c := float64(rows), float64(cols)
	return 7*(r*r*r+c*c*c)/3 + float64(steps+3)*(2*r*r*c+2*r*c*c)
}
