package cpu

import (
	"math"

	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
)

// Attention works on blocks of query rows of one head of one sequence, against all keys that one of the rows sees:
//
//	             keys 0                 from                       to
//	query rows   ·  ·  ·  ·  ·  ·  ·  · ┌─────────────────────────┐ ·  ·
//	i0 … i1−1    ·  ·  ·  ·  ·  ·  ·  · │ ▒ ▒ █ █ █ █ █ █ █ █ █ ▒ ▒ │ ·  ·       █ scores used
//	             ·  ·  ·  ·  ·  ·  ·  · └─────────────────────────┘ ·  ·       ▒ set to 0: outside window or later
//
// So the products outside the causal band are left out but for the corners ▒, and memory is 128 × T a core, not T × T.
// The zeros of the corners are multiplied like others: where k or v of a row is not finite, earlier rows of the same block
// may become NaN.

// queryRows is the height of a block: high enough for Gemm to be at its best, low enough that the corners are a small part
// of the band.
const queryRows = 128

// band is one block: query rows i0 to i1−1 and the keys that they see, from to to−1.
type band struct{ i0, i1, from, to int }

func bandAt(h device.Heads, i0 int) band {
	b := band{i0, min(h.Length, i0+queryRows), 0, 0}
	b.from, b.to = firstKey(h, i0), b.i1
	return b
}

// firstKey is the first key that row i of a sequence sees. The last one is i.
func firstKey(h device.Heads, i int) int {
	if h.Window == 0 {
		return 0
	}
	return max(0, i-h.Window+1)
}

// cut is head i of width dim in the sequence that begins at row.
func cut[T float](x block[T], row, length, head, dim int) block[T] {
	return x.part(row, row+length, head*dim, (head+1)*dim)
}

// Attention is out ← softmax(Scale·q·kᵀ)·v for every head.
func (d *Device) Attention(h device.Heads, q, k, v, out, lse device.Tensor) {
	device.CheckAttention(h, q, k, v, out, lse)
	switch q.Type {
	case device.F32:
		attention[float32](d, h, q, k, v, out, lse)
	case device.F64:
		attention[float64](d, h, q, k, v, out, lse)
	default:
		w := d.widen()
		d.Attention(h, w.in(q), w.in(k), w.in(v), w.out(out), lse)
		w.store()
	}
}

func attention[T float](d *Device, h device.Heads, q, k, v, out, lse device.Tensor) {
	mq, mk, mv, mout := whole[T](d, q), whole[T](d, k), whole[T](d, v), whole[T](d, out)
	var mlse []T
	if !lse.IsZero() {
		mlse = elements[T](d, lse)
	}
	blocks := (h.Length + queryRows - 1) / queryRows
	size := min(h.Length, queryRows) * h.Length
	buf, free := scratch[T](d, parallel.Workers()*size)
	defer free()

	parallel.For(q.Rows/h.Length*h.Query*blocks, 1, func(worker, task, _ int) {
		i := task / blocks
		seq, head := i/h.Query*h.Length, i%h.Query
		b := bandAt(h, (blocks-1-task%blocks)*queryRows) // the longest first, so that none is left over in the end
		keys := head / (h.Query / h.KeyValue)
		hk, hv := cut(mk, seq, h.Length, keys, h.Dim), cut(mv, seq, h.Length, keys, h.Dim)
		n := b.to - b.from
		p := block[T]{b.i1 - b.i0, n, n, buf[worker*size:][:(b.i1-b.i0)*n]}

		gemm(false, true, T(h.Scale), cut(mq, seq+b.i0, p.rows, head, h.Dim), hk.part(b.from, b.to, 0, h.Dim), 0, p)
		for i := b.i0; i < b.i1; i++ {
			row := visible(h, b, p, i)
			top := largest(row)
			sum := expSum(row, top)
			inverse := T(1 / sum)
			for j := range row {
				row[j] *= inverse
			}
			if mlse != nil {
				mlse[(seq+i)*h.Query+head] = T(float64(top) + math.Log(sum))
			}
		}
		gemm(false, false, 1, p, hv.part(b.from, b.to, 0, h.Dim), 0, cut(mout, seq+b.i0, p.rows, head, h.Dim))
	})
}

// visible is the part of row i of the block p that is inside the band; what is outside is set to 0.
func visible[T float](h device.Heads, b band, p block[T], i int) []T {
	row := p.row(i - b.i0)
	first, end := firstKey(h, i)-b.from, i+1-b.from
	clear(row[:first])
	clear(row[end:])
	return row[first:end]
}

// AttentionBackward makes dq, dk and dv. With p made again from lse, and D_i = Σ dout_i∘out_i,
//
//	dv = pᵀ·dout,  ds = p ∘ (dout·vᵀ − D),  dq = Scale·ds·k,  dk = Scale·dsᵀ·q.
func (d *Device) AttentionBackward(h device.Heads, q, k, v, out, lse, dout, dq, dk, dv device.Tensor) {
	device.CheckAttentionBackward(h, q, k, v, out, lse, dout, dq, dk, dv)
	switch q.Type {
	case device.F32:
		attentionBackward[float32](d, h, q, k, v, out, lse, dout, dq, dk, dv)
	case device.F64:
		attentionBackward[float64](d, h, q, k, v, out, lse, dout, dq, dk, dv)
	default:
		w := d.widen()
		d.AttentionBackward(h, w.in(q), w.in(k), w.in(v), w.in(out), lse, w.in(dout), w.out(dq), w.out(dk), w.out(dv))
		w.store()
	}
}

func attentionBackward[T float](d *Device, h device.Heads, q, k, v, out, lse, dout, dq, dk, dv device.Tensor) {
	mq, mk, mv, mout, mdout := whole[T](d, q), whole[T](d, k), whole[T](d, v), whole[T](d, out), whole[T](d, dout)
	mdq, mlse := whole[T](d, dq), elements[T](d, lse)

	// One worker owns a query head of a sequence. Query heads that share a key/value head sum into dk and dv of their own,
	// which are added in the order of the heads.
	group := h.Query / h.KeyValue
	partK, partV := dk, dv
	if group > 1 {
		partK, partV = d.Alloc(q.Rows, q.Cols, q.Type), d.Alloc(q.Rows, q.Cols, q.Type)
		defer d.Free(partK, partV)
	}
	d.Zero(partK)
	d.Zero(partV)
	mdk, mdv := whole[T](d, partK), whole[T](d, partV)

	size := min(h.Length, queryRows) * h.Length
	buf, free := scratch[T](d, 2*parallel.Workers()*size)
	defer free()
	parallel.For(q.Rows/h.Length*h.Query, 1, func(worker, task, _ int) {
		seq, head := task/h.Query*h.Length, task%h.Query
		of := func(x block[T], head int) block[T] { return cut(x, seq, h.Length, head, h.Dim) }
		hq, hk, hv := of(mq, head), of(mk, head/group), of(mv, head/group)
		hout, hdout, hdq, hdk, hdv := of(mout, head), of(mdout, head), of(mdq, head), of(mdk, head), of(mdv, head)
		for i0 := 0; i0 < h.Length; i0 += queryRows {
			b := bandAt(h, i0)
			rows := func(x block[T]) block[T] { return x.part(b.i0, b.i1, 0, h.Dim) }
			keys := func(x block[T]) block[T] { return x.part(b.from, b.to, 0, h.Dim) }
			n := b.to - b.from
			p := block[T]{b.i1 - b.i0, n, n, buf[2*worker*size:][:(b.i1-b.i0)*n]}
			ds := block[T]{b.i1 - b.i0, n, n, buf[(2*worker+1)*size:][:(b.i1-b.i0)*n]}

			gemm(false, true, T(h.Scale), rows(hq), keys(hk), 0, p)
			gemm(false, true, 1, rows(hdout), keys(hv), 0, ds)
			for i := b.i0; i < b.i1; i++ {
				prow, srow := visible(h, b, p, i), visible(h, b, ds, i)
				expSum(prow, mlse[(seq+i)*h.Query+head])
				mean := T(sumProduct(hdout.row(i), hout.row(i))) // Σ_j p_ij·(dout·vᵀ)_ij
				for j, v := range prow {
					srow[j] = v * (srow[j] - mean)
				}
			}
			gemm(true, false, 1, p, rows(hdout), 1, keys(hdv))
			gemm(false, false, T(h.Scale), ds, keys(hk), 0, rows(hdq))
			gemm(true, false, T(h.Scale), ds, rows(hq), 1, keys(hdk))
		}
	})
	if group > 1 {
		addGroups(mdk, group, h.Dim, whole[T](d, dk))
		addGroups(mdv, group, h.Dim, whole[T](d, dv))
	}
}

// addGroups is y_g ← Σ x_h over the query heads h of group g.
func addGroups[T float](x block[T], group, dim int, y block[T]) {
	parallel.For(x.rows, rowGrain(x.cols), func(_, i0, i1 int) {
		for i := i0; i < i1; i++ {
			from, to := x.row(i), y.row(i)
			for j := range to {
				at := j/dim*group*dim + j%dim
				sum := from[at]
				for range group - 1 {
					at += dim
					sum += from[at]
				}
				to[j] = sum
			}
		}
	})
}
