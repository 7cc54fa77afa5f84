package device

import "math/bits"

func (o op) float64s(xs ...arg) {
	for _, x := range xs {
		o.valid(x)
		if x.Type != F64 {
			o.fail("%v, want float64", x)
		}
	}
}

// CheckElementCosts checks the arguments of ElementCosts.
func CheckElementCosts(w, r, c, cost Tensor) {
	o, aw, ar, ac, acost := op("ElementCosts"), arg{"w", w}, arg{"r", r}, arg{"c", c}, arg{"cost", cost}
	o.float64s(aw)
	o.is(ar, 1, w.Rows, F64)
	o.is(ac, 1, w.Cols, F64)
	o.is(acost, w.Rows, w.Cols, F64)
	o.apart(acost, aw, ar, ac)
}

// CheckHistogram checks the arguments of Histogram, and is the number of bits of a digit.
func CheckHistogram(x Tensor, prefix uint64, read int, counts []int64) (digit int) {
	o := op("Histogram")
	o.float64s(arg{"x", x})
	n := len(counts)
	if n == 0 || n&(n-1) != 0 || n > HistogramMost {
		o.fail("counts has %d places, want a power of two, at most %d", n, HistogramMost)
	}
	digit = bits.TrailingZeros(uint(n))
	if read < 0 || read+digit > 64 {
		o.fail("a digit of %d bits after %d, want 64 in all at most", digit, read)
	}
	if bits.Len64(prefix) > read {
		o.fail("the prefix %#x is longer than %d bits", prefix, read)
	}
	return digit
}

// CheckCompare checks the arguments of Compare.
func CheckCompare(x Tensor, marks []Order) {
	o, ax := op("Compare"), arg{"x", x}
	o.float64s(ax)
	if len(marks) != x.Len() {
		o.fail("marks has %d places, want one for each element of %v", len(marks), ax)
	}
}

// CheckSmallest checks the arguments of Smallest.
func CheckSmallest(n, m int, x, sums Tensor, marks []bool) {
	o, ax, as := op("Smallest"), arg{"x", x}, arg{"sums", sums}
	o.float64s(ax)
	if n < 0 || n > m || m < 1 || x.Cols%m != 0 {
		o.fail("the %d smallest of runs of %d in %v, want at most all of a run, and whole runs in a row", n, m, ax)
	}
	if !sums.IsZero() {
		o.is(as, x.Rows, x.Cols/m, F64)
		o.apart(as, ax)
	}
	if marks != nil && len(marks) != x.Len() {
		o.fail("marks has %d places, want one for each element of %v", len(marks), ax)
	}
}

// CheckDivide checks the arguments of Divide.
func CheckDivide(x, y, z Tensor) {
	o, ax, ay, az := op("Divide"), arg{"x", x}, arg{"y", y}, arg{"z", z}
	o.float64s(ax)
	o.like(ax, ay, az)
	o.inPlace(az, ax, ay)
}

// CheckDivideOuter checks the arguments of DivideOuter.
func CheckDivideOuter(s, t, x Tensor) {
	o, as, at, ax := op("DivideOuter"), arg{"s", s}, arg{"t", t}, arg{"x", x}
	o.float64s(ax)
	o.is(as, 1, x.Rows, F64)
	o.is(at, 1, x.Cols, F64)
	o.apart(ax, as, at)
}
