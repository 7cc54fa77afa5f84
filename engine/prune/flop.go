package prune

// CostFLOP is the arithmetic of Costs for a layer of which nothing is dead: two products for the numerators, a
// factorisation and the diagonal of an inverse per side for the denominators.
func CostFLOP(rows, cols int) float64 {
	r, c := float64(rows), float64(cols)
	return 2*r*r*c + 2*r*c*c + 2*(r*r*r+c*c*c)/3
}

// ApplyFLOP is the arithmetic of Apply with Joint, for a layer of which nothing is dead: per side a factorisation of what
// stays and a solve for what goes, the two steps, and two products for the predicted increase.
func ApplyFLOP(rows, cols int, kept Kept) float64 {
	r, c := float64(rows), float64(cols)
	keptRows, keptCols := kept.Count()
	s, t := float64(keptRows), float64(keptCols)
	q, u := r-s, c-t
	flop := 2*r*r*c + 2*r*c*c
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

// iterationsExpected is about how many iterations the update of a group takes.
const iterationsExpected = 12

// ApplyElementsFLOP is the arithmetic of ApplyElements for a layer of which nothing is dead and this share of every row goes:
// two inverses, the factors of single rows, the iterations of groups that have several, two products for the step, and two for
// the predicted increase.
func ApplyElementsFLOP(limit, rows, cols int, gone float64) float64 {
	r, c := float64(rows), float64(cols)
	n := gone * c
	together := float64(limit) / n // rows of a group
	if limit == 0 {
		together = max(1, groupBytes/(4*n*n))
	}
	flop := 7*(r*r*r+c*c*c)/3 + r*n*n*n/3 + 2*(2*r*r*c+2*r*c*c)
	if together >= 2 {
		flop += iterationsExpected * (2*r*c*c + 2*r*min(r, together)*c + r*2*n*n)
	}
	return flop
}
