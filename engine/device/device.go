// Package device is the seam between the method and the hardware that runs it.
//
// The engine speaks to matrices only through the interface Device: it never sees where their bytes are. Package
// device/cpu defines what every operation means; any other device is checked against it by device/devicetest.
//
// # Conventions
//
// Matrices are row-major. x is N×n: one row per token, N = sequences × length. W is R×C: one row per output. Inputs come
// first, the output last; an output may not overlap an input unless the operation says "in place". All operands of an
// operation have one Type, with two exceptions that each operation repeats: sums are kept in Type.Acc, and Gemm and Gram
// may read BF16 and write F32. N×n matrices whose rows are tokens hold whole sequences, one after the other. Where an
// output is a sum with β times its old content, β = 0 means that the old content is not read. Sizes of 0 are allowed. What an
// operation makes of one of the matrices in a list depends on no other one but in its rounding: bits depend on what stands in one call.
//
// # Three kinds of trouble
//
//   - Misuse (shapes that disagree, a freed tensor, outputs overlapping inputs) panics with a Misuse: it is a bug in the caller.
//   - Failure of the device is sticky: the first failing call is remembered, later calls return at once and do nothing,
//     Sync reports it. The caller adds block and layer.
//   - A numeric outcome (a matrix that is not positive definite, a value that is not finite) is a returned value. NaN
//     goes through every operation as NaN, 0·NaN too; no operation turns it into a number.
//
// # What crosses between host and device
//
// In the inner loop token ids go in, costs, diagonals and drawn ids come out, index lists go in. Only Upload, Download, Diagonal,
// FirstNonFinite, Cholesky, Eigh, Histogram, Compare, Smallest with marks, Sample, and Sync wait for the device; everything
// else may be queued.
package device

// Device is one place where matrices live and are worked on. Methods are called from one goroutine at a time.
type Device interface {
	// Name says what the device is, for logs and reports: "cpu (gonum, 2 threads)", "cuda:0 NVIDIA H100 80GB HBM3".
	Name() string
	// Bits names what the bits of results depend on beside the calls: "cpu (OpenBLAS, Zen)", "cuda NVIDIA H100 80GB HBM3". A
	// stopped run goes on where it is the same.
	Bits() string
	// Alloc makes a rows×cols tensor. Its content is undefined.
	Alloc(rows, cols int, t Type) Tensor
	// Free gives tensors back; views made by Slice or Reshape become invalid with them. Freeing a zero Tensor does nothing.
	Free(ts ...Tensor)
	// Upload converts the little-endian elements in src, of type as, into dst. src holds exactly dst.Len() elements.
	Upload(src []byte, as Type, dst Tensor)
	// Download converts src into elements of type as, rounding to nearest even, and waits for them.
	Download(src Tensor, as Type, dst []byte)
	// Copy is y ← x for tensors of equal shape and any two types.
	Copy(x, y Tensor)
	// Zero is x ← 0.
	Zero(x Tensor)
	// Memory tells how much is held.
	Memory() Memory
	// Sync waits for queued work and reports the first failure there was.
	Sync() error
	// Err is the first failure that is known by now, without waiting: of a call that could not be queued, or that was waited
	// for.
	Err() error
	// Close frees everything. The device cannot be used afterwards.
	Close() error

	Algebra
	Elements
	Layers
}

// Memory of a device, in bytes.
type Memory struct {
	Total int64 // what the device has, or may use where a limit was set
	Used  int64 // held by tensors now
	Peak  int64 // the most Used has been
	Own   int64 // of Used: what the device itself works in, whatever tensors there are
	Page  Page  // what its memory is cut up into, and Used counts
	Host  bool  // tensors lie in main memory, beside the program; false for a device with memory of its own
}

// Page is the size of a device's pages, in bytes: what is as large as one, or larger, takes whole pages. 0 = there are none.
// In pages of 2 MiB a factor of order 1536, 4.5 MiB in float32, takes 6, and a model of 135 million weights a sixth more in all.
type Page int64

// Of is what so many bytes take.
func (p Page) Of(bytes int64) int64 {
	if p <= 1 || bytes < int64(p) {
		return bytes
	}
	return (bytes + int64(p) - 1) / int64(p) * int64(p)
}

// Tensor is what a rows×cols tensor takes.
func (p Page) Tensor(rows, cols int, t Type) int64 {
	return p.Of(int64(rows) * int64(cols) * int64(t.Size()))
}

// Sym is what a symmetric matrix of order n takes.
func (p Page) Sym(n int, t Type) int64 { return p.Tensor(1, PackedLen(n), t) }

// Algebra is the linear algebra of the method (method.md sections 1 to 5).
type Algebra interface {
	// Gemm is c ← α·op(a)·op(b) + β·c, op transposing where asked. a and b have one type; c has theirs, or F32 where they
	// are BF16. With α = 0 a and b are not read. 2·m·n·k FLOP.
	Gemm(transA, transB bool, alpha float64, a, b Tensor, beta float64, c Tensor)
	// Gram is s_k ← α·x_kᵀx_k + β·s_k for each pair, so that a device can make them side by side: x_k N×n, s_k a symmetric matrix of
	// order n, or n+1: then x_k is read with a constant 1 appended to every row, the input of a bias. All x have one type and
	// number of rows, n is each one's own; s_k has the type x.Type.Acc(). N·n² FLOP each, as only the lower triangle is made.
	Gram(alpha float64, xs []Tensor, beta float64, ss []Sym)
	// GramScratch is the bytes that Gram works in beside its operands, for one call with x_k N×cols_k of type t, and a constant 1
	// appended to each or to none. Plans ask for it: it can be as much as the operands.
	GramScratch(t Type, n int, cols []int, ones bool) int64
	// Axpy is y ← α·x + y.
	Axpy(alpha float64, x, y Tensor)
	// Gather is y_ij ← x[rows_i, cols_j]; nil stands for all rows or all columns. Index lists, here and elsewhere, are not changed
	// by the caller before the next Sync: a device may hold on to them.
	Gather(x Tensor, rows, cols []int32, y Tensor)
	// Scatter is y[rows_i, cols_j] ← x_ij; the other elements of y stay. Index lists hold no index twice.
	Scatter(x Tensor, rows, cols []int32, y Tensor)
	// Extract is y_ij ← s[rows_i, cols_j], reading the upper triangle as the mirror of the lower; nil stands for all. y is
	// F64, or of the type of s.
	Extract(s Sym, rows, cols []int32, y Tensor)
	// AddDiagonal is a ← a + λ·I.
	AddDiagonal(lambda float64, a Tensor)
	// Diagonal downloads the diagonal of s.
	Diagonal(s Sym, dst []float64)
	// Cholesky factors each symmetric positive definite matrix (F64) in place into its lower factor l, a = l·lᵀ. Only the
	// lower triangle counts; the content above the diagonal is undefined afterwards. ok is false for a matrix
	// that is not positive definite or not finite; its content is then undefined. n³/3 FLOP each.
	Cholesky(a ...Tensor) (ok []bool)
	// CholeskySolve solves in place for each pair, with the l of Cholesky: Left b ← (l·lᵀ)⁻¹·b, Right b ← b·(l·lᵀ)⁻¹. b has the
	// type of l, F64, or F32 where every b is a single right side: enough to precondition with. 2·n² FLOP per column, or row, of b.
	CholeskySolve(side Side, l, b []Tensor)
	// CholeskyInverseDiag is d_i ← [(l·lᵀ)⁻¹]_ii for each pair; d is 1×n F64. n³/3 FLOP each.
	CholeskyInverseDiag(l, d []Tensor)
	// Eigh is a_k = V·diag(w)·Vᵀ for each symmetric matrix: values_k ← w, 1×n and ascending, vectors_k ← V, n×n, eigenvector j
	// in column j. All are F64. Only the lower triangle of a_k is read; its content is undefined afterwards. With warm, vectors
	// hold on entry what may be near the solution, orthogonal to single precision at least: the eigenvectors of a matrix that
	// differs little. ok is false for a matrix that is not finite, and where eigenvalues were not found; values and vectors
	// are then undefined. Warm vectors that are not finite may make it false too. About 9·n³ FLOP each by way of a tridiagonal
	// matrix.
	Eigh(warm bool, a, values, vectors []Tensor) (ok []bool)
	// RowDot is d_i ← Σ_j x_ij·y_ij, d 1×Rows of type Acc.
	RowDot(x, y, d Tensor)
	// ColDot is d_j ← Σ_i x_ij·y_ij, d 1×Cols of type Acc.
	ColDot(x, y, d Tensor)
	// Energies is e_j ← Σ_ik x_ij·s_ik·x_kj of the columns of x, or, Right, e_i ← Σ_jk x_ij·s_jk·x_ik of its rows, all F64: s is symmetric, and a
	// full matrix. At least n²·m FLOP for s of order n and m of them, half of what the product with s takes.
	Energies(side Side, s, x, e Tensor)
	// ScaleRoot is y_i ← √max(sign·w_i, 0)·x_i for every row; sign is 1 or −1, w 1×Rows of type Acc, and a NaN of w makes its row
	// NaN. y may be x. The Gram matrix of y is Σ_i max(sign·w_i, 0)·x_i·x_iᵀ: with both signs, a sum with any weights.
	ScaleRoot(sign float64, w, x, y Tensor)
	// Square is y_ij ← x_ij². y may be x.
	Square(x, y Tensor)
	// MaxAbs is r_i ← max_j |x_ij| and c_j ← max_i |x_ij|, NaN where any element is NaN; r 1×Rows, c 1×Cols of x's type.
	MaxAbs(x, r, c Tensor)
	// WatchFinite looks at the diagonal of s and, if it holds a NaN or an infinity, remembers tag unless a smaller one is
	// remembered already. The diagonal of a Gram matrix is a sum of squares: nothing that is not finite can hide from it.
	WatchFinite(tag int, s Sym)
	// FirstNonFinite waits and returns the smallest tag remembered, and forgets it.
	FirstNonFinite() (tag int, found bool)
}

// Elements is what single weights need, and sums of Kronecker products (method.md sections 3 to 5). All tensors are F64.
type Elements interface {
	// ElementCosts is cost_ij ← ((½·r_i)·w_ij²)·c_j; r 1×Rows, c 1×Cols. Each product is rounded, in that order, so that every
	// device selects the same elements.
	ElementCosts(w, r, c, cost Tensor)
	// Histogram counts the elements of x by a digit of their keys. The key of x_i is its 64 bits as an unsigned integer, which
	// orders numbers from 0 up as they are, −0 counting as 0; negative numbers and NaN have keys above infinity's. Of the keys
	// whose first bits bits are prefix, counts[the next log₂ len(counts) bits] goes up by one for each; the length of counts
	// is a power of two, at most HistogramMost. Counts are added to what is there.
	Histogram(x Tensor, prefix uint64, bits int, counts []int64)
	// Compare tells Less, Equal or More of every x_i against the limit, in row-major order; NaN is More.
	Compare(x Tensor, limit float64, marks []Order)
	// Smallest looks at runs of m consecutive elements of a row, m a divisor of Cols: sums, Rows×(Cols/m), gets the sum of the n
	// smallest of each run, and marks, in row-major order, tells which they are; of equal ones the first count as smaller. NaN
	// counts as larger than all and, where it is among the n, makes the sum NaN. Where m is at most SmallestOrdered the sum is
	// added up from the smallest, with the same bits on every device; in longer runs the order of the additions is the device's.
	// A zero sums or a nil marks is left out.
	Smallest(n, m int, x, sums Tensor, marks []bool)
	// Divide is z_i ← x_i / y_i. z may be x or y.
	Divide(x, y, z Tensor)
	// DivideOuter is x_ij ← x_ij / (α + s_i·t_j), s 1×Rows, t 1×Cols: in the eigenbasis of both factors, (α·I + S ⊗ T)⁻¹ x.
	DivideOuter(alpha float64, s, t, x Tensor)
}

// HistogramMost is the most that Histogram counts apart at a time: what a block of threads can keep beside it.
const HistogramMost = 1 << 13

// SmallestOrdered is the longest run that Smallest adds up in ascending order: what one thread can keep beside it.
const SmallestOrdered = 32

// Order is how a number stands to another one.
type Order uint8

const (
	More Order = iota
	Less
	Equal
)

// Layers is what a transformer's forward and backward passes need beside Gemm.
type Layers interface {
	// Embed is x_i ← table[ids_i] + β·x_i. An id outside the table is misuse.
	Embed(table Tensor, ids []int32, beta float64, x Tensor)
	// Linear is y ← x·wᵀ + b + β·y, a linear layer with its bias: x N×C, w R×C, b 1×R added to every row, y N×R. Of bfloat16 the sums,
	// b and β·y in them, are made in float32 and rounded once; where β is not 0 a device may have rounded b + β·y before. 2·N·C·R FLOP.
	Linear(x, w, b Tensor, beta float64, y Tensor)
	// RMSNorm is y_i ← gain ∘ x_i / √(mean(x_i²) + eps), gain 1×n. In place is allowed.
	RMSNorm(x, gain Tensor, eps float64, y Tensor)
	// RMSNormBackward is dx ← Jᵀ·dy + β·dx, J the derivative of RMSNorm at x. dx may be dy.
	RMSNormBackward(x, gain Tensor, eps float64, dy Tensor, beta float64, dx Tensor)
	// LayerNorm is y_i ← gain ∘ (x_i − mean(x_i)) / √(var(x_i) + eps) + bias, the variance over n. In place is allowed.
	LayerNorm(x, gain, bias Tensor, eps float64, y Tensor)
	// LayerNormBackward is dx ← Jᵀ·dy + β·dx, J the derivative of LayerNorm at x. dx may be dy.
	LayerNormBackward(x, gain Tensor, eps float64, dy Tensor, beta float64, dx Tensor)
	// Rope turns, in place, the pairs (x_j, x_{j+d/2}) of every head of every row by the angle whose cosine and sine stand
	// in row (i mod T) of cos and sin, both T×d/2 of type Acc: (x_j·cos − x_{j+d/2}·sin, x_{j+d/2}·cos + x_j·sin). inverse turns back,
	// which is also the backward pass. x is N×(heads·d).
	Rope(cos, sin Tensor, inverse bool, x Tensor)
	// Attention is causal grouped attention: for the query head h of row i, with j over the rows of the same sequence with
	// i−Window < j ≤ i (Window 0: all j ≤ i) and g = h·KeyValue/Query,
	//	out_ih ← Σ_j p_j v_jg,  p = softmax_j(Scale · q_ih·k_jg),  lse_ih ← log Σ_j exp(Scale · q_ih·k_jg).
	// q and out are N×(Query·Dim), k and v N×(KeyValue·Dim), lse N×Query of type Acc: what the backward pass needs instead
	// of p. A zero lse is allowed where no backward pass follows. A q, k or v that is not finite may make other rows of its
	// sequence NaN too, in both passes.
	Attention(h Heads, q, k, v, out, lse Tensor)
	// AttentionBackward makes dq, dk, dv from dout and what Attention was given and made. Nothing of size T×T is kept.
	AttentionBackward(h Heads, q, k, v, out, lse, dout, dq, dk, dv Tensor)
	// SwiGLU is y ← silu(gate) ∘ up, silu(z) = z/(1+exp(−z)). In place on either is allowed.
	SwiGLU(gate, up, y Tensor)
	// SwiGLUBackward makes dgate and dup from dy. dgate may be gate and dup may be up.
	SwiGLUBackward(gate, up, dy, dgate, dup Tensor)
	// ReLU is y ← max(x, 0), NaN staying NaN. In place is allowed.
	ReLU(x, y Tensor)
	// ReLUBackward is dx ← dy where y > 0, 0 where y ≤ 0, NaN where y is NaN; y is ReLU's output or its input, which have
	// the same sign. dx may be y or dy.
	ReLUBackward(y, dy, dx Tensor)
	// CrossEntropy is losses_i ← log Σ_v exp(logits_iv) − logits_i,target(i), in nats; losses 1×N of type Acc. A target of
	// −1 gives loss 0. With grad the logits are replaced by the gradient of the sum of the losses, in place: softmax − one
	// hot, zero for a target of −1. Other targets outside the vocabulary are misuse.
	CrossEntropy(logits Tensor, targets []int32, grad bool, losses Tensor)
	// Sample draws from softmax(logits_i) by a number 0 ≤ uniform_i < 1: ids_i ← the smallest v with
	// Σ_{u≤v} exp(logits_iu) > uniform_i · Σ_u exp(logits_iu), sums being kept in float64. A row in which a NaN leaves none gives
	// the last. Waits.
	Sample(logits Tensor, uniform []float64, ids []int32)
}

// Heads is the shape of an attention.
type Heads struct {
	Length   int     // T, tokens per sequence; N is a multiple of it
	Query    int     // H query heads
	KeyValue int     // Hkv key/value heads; divides Query
	Dim      int     // d, width of a head
	Scale    float64 // usually 1/√d
	Window   int     // sliding window in tokens, 0 = none
}

// Side is the side on which an inverse stands.
type Side uint8

const (
	Left Side = iota
	Right
)
