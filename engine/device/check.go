package device

import (
	"fmt"
	"math"
	"slices"
)

// Misuse is what a device panics with when a call breaks the contract of its operation: a bug in the caller.
type Misuse string

// Error says what was wrong.
func (m Misuse) Error() string { return string(m) }

// The functions CheckX are the first line of method X of every device, so that misuse has the same words everywhere. They
// look at shapes, types, index ranges and overlap only, never at what a Handle holds: a device that has failed hands out
// tensors with a nil Handle, and calls with those must get as far as the device, which then does nothing and lets Sync
// tell of the failure. For the same reason two tensors with a nil Handle are never taken to overlap. That a tensor was
// freed, or made by another device, only the device can see.

// op is the name of the operation that is checked, and the place from which its complaints come.
type op string

// arg is an operand under the name that it has in the operation's documentation.
type arg struct {
	name string
	Tensor
}

func (a arg) String() string {
	return fmt.Sprintf("%s (%d×%d %s)", a.name, a.Rows, a.Cols, a.Type)
}

func (o op) fail(format string, args ...any) {
	panic(Misuse("device: " + string(o) + ": " + fmt.Sprintf(format, args...)))
}

// need complains that a and b disagree, unless ok.
func (o op) need(ok bool, a, b arg, want string) {
	if !ok {
		o.fail("%v and %v: %s", a, b, want)
	}
}

func (o op) valid(xs ...arg) {
	for _, x := range xs {
		if x.Rows < 0 || x.Cols < 0 || x.Offset < 0 || x.Type < F32 || x.Type > BF16 {
			o.fail("%v is not a tensor", x)
		}
	}
}

// like complains where one of xs has not the shape and type of ref.
func (o op) like(ref arg, xs ...arg) {
	o.valid(ref)
	for _, x := range xs {
		o.need(x.Rows == ref.Rows && x.Cols == ref.Cols, x, ref, "want equal shapes")
		o.typed(ref, x)
	}
}

// typed complains where one of xs has not the type of ref.
func (o op) typed(ref arg, xs ...arg) {
	for _, x := range xs {
		o.valid(x)
		o.need(x.Type == ref.Type, x, ref, "want equal types")
	}
}

// is complains where x has not this shape and type.
func (o op) is(x arg, rows, cols int, t Type) {
	if x.Rows != rows || x.Cols != cols || x.Type != t {
		o.fail("%v, want %d×%d %s", x, rows, cols, t)
	}
	o.valid(x)
}

// overlap says whether elements of a are elements of b.
func overlap(a, b Tensor) bool {
	return a.Handle != nil && a.Handle == b.Handle && a.Len() > 0 && b.Len() > 0 &&
		a.Offset < b.Offset+b.Len() && b.Offset < a.Offset+a.Len()
}

// apart complains where the output shares elements with one of others.
func (o op) apart(out arg, others ...arg) {
	for _, x := range others {
		if overlap(out.Tensor, x.Tensor) {
			o.fail("output %v overlaps %v", out, x)
		}
	}
}

// inPlace is apart, but the output may be exactly one of others.
func (o op) inPlace(out arg, others ...arg) {
	for _, x := range others {
		if overlap(out.Tensor, x.Tensor) && (out.Offset != x.Offset || out.Len() != x.Len()) {
			o.fail("output %v overlaps a part of %v", out, x)
		}
	}
}

func (o op) sym(name string, s Sym) arg {
	if s.N < 0 || s.Packed.Rows != 1 || s.Packed.Cols != PackedLen(s.N) {
		o.fail("%s is of order %d but its triangle is %d×%d, want 1×%d", name, s.N, s.Packed.Rows, s.Packed.Cols, PackedLen(s.N))
	}
	if s.Packed.Type != F32 && s.Packed.Type != F64 {
		o.fail("%s is stored as %s, want float32 or float64", name, s.Packed.Type)
	}
	return arg{name, s.Packed}
}

// indices checks that all of list are in [0, n), and tells how many there are; nil stands for all n.
func (o op) indices(name string, list []int32, n int) int {
	if list == nil {
		return n
	}
	for i, v := range list {
		if v < 0 || int(v) >= n {
			o.fail("%s[%d] is %d, want 0 to %d", name, i, v, n-1)
		}
	}
	return len(list)
}

// distinct checks that no index in [0, n) stands in list twice. Ascending lists, the usual case, cost no memory.
func (o op) distinct(name string, list []int32, n int) {
	ascending := true
	for i := 1; i < len(list); i++ {
		ascending = ascending && list[i-1] < list[i]
	}
	if ascending {
		return
	}
	seen := make([]uint64, (n+63)/64)
	for _, v := range list {
		if seen[v/64]&(1<<(v%64)) != 0 {
			o.fail("%s holds %d twice", name, v)
		}
		seen[v/64] |= 1 << (v % 64)
	}
}

// Allocation is what a device knows about the memory behind a tensor.
type Allocation struct {
	Made  bool // by this device
	Freed bool
	Type  Type
	Len   int // in elements
}

// CheckTensor checks that a tensor is within memory that its device has and has not taken back.
func CheckTensor(t Tensor, a Allocation) {
	switch {
	case !a.Made:
		panic(Misuse(fmt.Sprintf("device: a %d×%d %s tensor was not made by this device", t.Rows, t.Cols, t.Type)))
	case a.Freed:
		panic(Misuse(fmt.Sprintf("device: use of a %d×%d %s tensor after it was freed", t.Rows, t.Cols, t.Type)))
	case a.Type != t.Type || t.Offset < 0 || t.Offset+t.Len() > a.Len:
		panic(Misuse(fmt.Sprintf("device: a %d×%d %s tensor at element %d is not within its allocation of %d elements of %s", t.Rows, t.Cols, t.Type, t.Offset, a.Len, a.Type)))
	}
}

// CheckOpen checks that a device is still open.
func CheckOpen(closed bool) {
	if closed {
		panic(Misuse("device: use of a closed device"))
	}
}

// CheckAlloc checks the shape and type of a new tensor.
func CheckAlloc(rows, cols int, t Type) {
	o := op("Alloc")
	o.valid(arg{"tensor", Tensor{Rows: rows, Cols: cols, Type: t}})
	if cols > 0 && rows > math.MaxInt/8/cols {
		o.fail("%d×%d elements are more than can be addressed", rows, cols)
	}
}

// CheckUpload checks the arguments of Upload.
func CheckUpload(src []byte, as Type, dst Tensor) {
	op("Upload").bytes("src", src, as, arg{"dst", dst})
}

// CheckDownload checks the arguments of Download.
func CheckDownload(src Tensor, as Type, dst []byte) {
	op("Download").bytes("dst", dst, as, arg{"src", src})
}

func (o op) bytes(name string, b []byte, as Type, x arg) {
	o.valid(x)
	if as < F32 || as > BF16 {
		o.fail("elements as %s, want float32, float64 or bfloat16", as)
	}
	if len(b) != x.Len()*as.Size() {
		o.fail("%s holds %d bytes, want %d for %v as %s", name, len(b), x.Len()*as.Size(), x, as)
	}
}

// CheckCopy checks the arguments of Copy.
func CheckCopy(x, y Tensor) {
	o, ax, ay := op("Copy"), arg{"x", x}, arg{"y", y}
	o.valid(ax, ay)
	o.need(x.Rows == y.Rows && x.Cols == y.Cols, ax, ay, "want equal shapes")
	o.apart(ay, ax)
}

// CheckZero checks the argument of Zero.
func CheckZero(x Tensor) { op("Zero").valid(arg{"x", x}) }

// CheckGemm checks the arguments of Gemm.
func CheckGemm(transA, transB bool, a, b, c Tensor) {
	o, aa, ab, ac := op("Gemm"), arg{"a", a}, arg{"b", b}, arg{"c", c}
	m, k, k2, n := a.Rows, a.Cols, b.Rows, b.Cols
	if transA {
		aa.name, m, k = "aᵀ, a", k, m
	}
	if transB {
		ab.name, k2, n = "bᵀ, b", n, k2
	}
	o.valid(aa, ab, ac)
	o.need(k == k2, aa, ab, "inner sizes disagree")
	o.typed(aa, ab)
	if c.Rows != m || c.Cols != n {
		o.fail("%v times %v into %v, want %d×%d", aa, ab, ac, m, n)
	}
	o.need(c.Type == a.Type || c.Type == a.Type.Acc(), ac, aa, "want equal types, or float32 from bfloat16")
	o.apart(ac, aa, ab)
}

// CheckGram checks the arguments of Gram.
func CheckGram(xs []Tensor, ss []Sym) {
	o := op("Gram")
	if len(xs) != len(ss) {
		o.fail("%d matrices x and %d outputs s", len(xs), len(ss))
	}
	ax, as := make([]arg, len(xs)), make([]arg, len(ss))
	for k, x := range xs {
		ax[k] = arg{fmt.Sprintf("x[%d]", k), x}
		as[k] = o.sym(fmt.Sprintf("s[%d]", k), ss[k])
		o.typed(ax[0], ax[k])
		o.need(x.Rows == xs[0].Rows, ax[k], ax[0], "want equally many rows")
		if n := ss[k].N; n != x.Cols && n != x.Cols+1 {
			o.fail("%s is of order %d for %v, want %d, or %d with a constant 1", as[k].name, n, ax[k], x.Cols, x.Cols+1)
		}
		o.need(as[k].Type == x.Type.Acc(), as[k], ax[k], "s must have the type in which sums are kept")
	}
	for k, s := range as {
		o.apart(s, ax...)
		o.apart(s, as[:k]...)
	}
}

// CheckAxpy checks the arguments of Axpy.
func CheckAxpy(x, y Tensor) {
	o, ax, ay := op("Axpy"), arg{"x", x}, arg{"y", y}
	o.like(ax, ay)
	o.apart(ay, ax)
}

// CheckGather checks the arguments of Gather.
func CheckGather(x Tensor, rows, cols []int32, y Tensor) {
	o, ax, ay := op("Gather"), arg{"x", x}, arg{"y", y}
	o.valid(ax)
	o.is(ay, o.indices("rows", rows, x.Rows), o.indices("cols", cols, x.Cols), x.Type)
	o.apart(ay, ax)
}

// CheckScatter checks the arguments of Scatter.
func CheckScatter(x Tensor, rows, cols []int32, y Tensor) {
	o, ax, ay := op("Scatter"), arg{"x", x}, arg{"y", y}
	o.valid(ay)
	o.is(ax, o.indices("rows", rows, y.Rows), o.indices("cols", cols, y.Cols), y.Type)
	o.distinct("rows", rows, y.Rows)
	o.distinct("cols", cols, y.Cols)
	o.apart(ay, ax)
}

// CheckExtract checks the arguments of Extract.
func CheckExtract(s Sym, rows, cols []int32, y Tensor) {
	o, ay := op("Extract"), arg{"y", y}
	as := o.sym("s", s)
	o.need(y.Type == F64 || y.Type == s.Packed.Type, ay, as, "y must be float64 or of the type of s")
	o.is(ay, o.indices("rows", rows, s.N), o.indices("cols", cols, s.N), y.Type)
	o.apart(ay, as)
}

// CheckAddDiagonal checks the argument of AddDiagonal.
func CheckAddDiagonal(a Tensor) { op("AddDiagonal").square(arg{"a", a}) }

func (o op) square(a arg) {
	o.valid(a)
	if a.Rows != a.Cols {
		o.fail("%v is not square", a)
	}
}

// CheckDiagonal checks the arguments of Diagonal.
func CheckDiagonal(s Sym, dst []float64) {
	o := op("Diagonal")
	o.sym("s", s)
	if len(dst) != s.N {
		o.fail("dst holds %d elements, want the order of s, %d", len(dst), s.N)
	}
}

// CheckCholesky checks the arguments of Cholesky.
func CheckCholesky(as []Tensor) {
	o := op("Cholesky")
	for i, a := range as {
		aa := arg{fmt.Sprintf("a[%d]", i), a}
		o.square(aa)
		o.is(aa, a.Rows, a.Rows, F64)
		for j, b := range as[:i] {
			o.apart(aa, arg{fmt.Sprintf("a[%d]", j), b})
		}
	}
}

// CheckCholeskySolve checks the arguments of CholeskySolve.
func CheckCholeskySolve(side Side, ls, bs []Tensor) {
	o := op("CholeskySolve")
	if len(ls) != len(bs) {
		o.fail("%d factors and %d right sides", len(ls), len(bs))
	}
	if side != Left && side != Right {
		o.fail("side is %d, want Left or Right", side)
	}
	for i, l := range ls {
		b := bs[i]
		al, ab := arg{fmt.Sprintf("l[%d]", i), l}, arg{fmt.Sprintf("b[%d]", i), b}
		o.square(al)
		o.typed(arg{"l[0]", ls[0]}, al)
		if l.Type == F32 {
			o.need(b.Len() == l.Rows, ab, al, "float32 is for single right sides")
		} else {
			o.is(al, l.Rows, l.Rows, F64)
		}
		o.typed(al, ab)
		if side == Left {
			o.need(b.Rows == l.Rows, ab, al, "b must have as many rows as l")
		} else {
			o.need(b.Cols == l.Rows, ab, al, "b must have as many columns as l")
		}
	}
	// Lists are long, and looked at in every call: in the order of where they lie, what overlaps an output is its neighbour.
	type place struct {
		arg
		out bool
	}
	at := map[any][]place{}
	for i := range ls {
		at[ls[i].Handle] = append(at[ls[i].Handle], place{arg{"", ls[i]}, false})
		at[bs[i].Handle] = append(at[bs[i].Handle], place{arg{"", bs[i]}, true})
	}
	for _, places := range at {
		slices.SortStableFunc(places, func(a, b place) int { return a.Offset - b.Offset })
		for i, p := range places {
			for _, q := range places[i+1:] {
				if q.Offset >= p.Offset+p.Len() {
					break
				}
				if (p.out || q.out) && overlap(p.Tensor, q.Tensor) {
					o.named(ls, bs)
				}
			}
		}
	}
}

// named complains about the first output of bs that overlaps a factor of ls or an output before it.
func (o op) named(ls, bs []Tensor) {
	for i, b := range bs {
		ab := arg{fmt.Sprintf("b[%d]", i), b}
		for j := range ls {
			o.apart(ab, arg{fmt.Sprintf("l[%d]", j), ls[j]})
			if j < i {
				o.apart(ab, arg{fmt.Sprintf("b[%d]", j), bs[j]})
			}
		}
	}
}

// CheckCholeskyInverseDiag checks the arguments of CholeskyInverseDiag.
func CheckCholeskyInverseDiag(ls, ds []Tensor) {
	o := op("CholeskyInverseDiag")
	if len(ls) != len(ds) {
		o.fail("%d factors and %d outputs", len(ls), len(ds))
	}
	for i, l := range ls {
		al, ad := arg{fmt.Sprintf("l[%d]", i), l}, arg{fmt.Sprintf("d[%d]", i), ds[i]}
		o.square(al)
		o.is(al, l.Rows, l.Rows, F64)
		o.is(ad, 1, l.Rows, F64)
		for j := range ls {
			o.apart(ad, arg{fmt.Sprintf("l[%d]", j), ls[j]})
			if j < i {
				o.apart(ad, arg{fmt.Sprintf("d[%d]", j), ds[j]})
			}
		}
	}
}

// CheckEigh checks the arguments of Eigh.
func CheckEigh(as, values, vectors []Tensor) {
	o := op("Eigh")
	if len(values) != len(as) || len(vectors) != len(as) {
		o.fail("%d matrices, %d values and %d vectors", len(as), len(values), len(vectors))
	}
	var before []arg
	for i, a := range as {
		aa, aw, av := arg{fmt.Sprintf("a[%d]", i), a}, arg{fmt.Sprintf("values[%d]", i), values[i]}, arg{fmt.Sprintf("vectors[%d]", i), vectors[i]}
		o.square(aa)
		o.is(aa, a.Rows, a.Rows, F64)
		o.is(aw, 1, a.Rows, F64)
		o.is(av, a.Rows, a.Rows, F64)
		for _, x := range []arg{aa, aw, av} {
			o.apart(x, before...)
			before = append(before, x)
		}
	}
}

// CheckRowDot checks the arguments of RowDot.
func CheckRowDot(x, y, d Tensor) { op("RowDot").dot(x, y, d, x.Rows) }

// CheckColDot checks the arguments of ColDot.
func CheckColDot(x, y, d Tensor) { op("ColDot").dot(x, y, d, x.Cols) }

func (o op) dot(x, y, d Tensor, n int) {
	ax, ay, ad := arg{"x", x}, arg{"y", y}, arg{"d", d}
	o.like(ax, ay)
	o.is(ad, 1, n, x.Type.Acc())
	o.apart(ad, ax, ay)
}

// CheckEnergies checks the arguments of Energies.
func CheckEnergies(side Side, s, x, e Tensor) {
	o, as, ax, ae := op("Energies"), arg{"s", s}, arg{"x", x}, arg{"e", e}
	n, m := x.Rows, x.Cols
	switch side {
	case Left:
	case Right:
		n, m = m, n
	default:
		o.fail("side is %d, want Left or Right", side)
	}
	o.is(as, n, n, F64)
	o.is(ax, x.Rows, x.Cols, F64)
	o.is(ae, 1, m, F64)
	o.apart(ae, as, ax)
}

// CheckScaleRoot checks the arguments of ScaleRoot.
func CheckScaleRoot(sign float64, w, x, y Tensor) {
	o, aw, ax, ay := op("ScaleRoot"), arg{"w", w}, arg{"x", x}, arg{"y", y}
	if sign != 1 && sign != -1 {
		o.fail("sign is %v, want 1 or -1", sign)
	}
	o.like(ax, ay)
	o.is(aw, 1, x.Rows, x.Type.Acc())
	o.inPlace(ay, ax)
	o.apart(ay, aw)
}

// CheckSquare checks the arguments of Square.
func CheckSquare(x, y Tensor) {
	o, ax, ay := op("Square"), arg{"x", x}, arg{"y", y}
	o.like(ax, ay)
	o.inPlace(ay, ax)
}

// CheckMaxAbs checks the arguments of MaxAbs.
func CheckMaxAbs(x, r, c Tensor) {
	o, ax, ar, ac := op("MaxAbs"), arg{"x", x}, arg{"r", r}, arg{"c", c}
	o.valid(ax)
	o.is(ar, 1, x.Rows, x.Type)
	o.is(ac, 1, x.Cols, x.Type)
	o.apart(ar, ax, ac)
	o.apart(ac, ax)
}

// CheckWatchFinite checks the arguments of WatchFinite.
func CheckWatchFinite(s Sym) { op("WatchFinite").sym("s", s) }
