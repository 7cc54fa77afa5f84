package prune

import (
	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
)

// PropagateDead marks, layer by layer in place, what computes nothing any more because something before or after it is
// gone, until nothing changes (method.md section 6). kept has one entry per layer, in the order of linears. Removing what is
// marked leaves the function of the model exactly as it is:
//
//	gate row j or up row j gone      → the input of down column j is 0    → down column j, and the other of the two rows
//	down column j gone               → nothing reads unit j               → gate row j and up row j
//	v row i of a key/value head gone → o reads 0 there in all its heads   → o columns i of the query heads of that group
//	those o columns all gone         → nothing reads v row i              → v row i
//	k row i gone (a RoPE pair: both) → it meets only zeros                → q row i, in all query heads of the group
//	q rows i of a group all gone     → they meet only zeros               → k row i
//
// A row is gone with its bias: its output is exactly 0. Where q and k are normalised per head, removing a zero pair's
// partner would change the norm: then the last two rules are left out.
func PropagateDead(c checkpoint.Config, linears []checkpoint.Linear, kept []Kept) {
	blocks := make([]map[checkpoint.Role]Kept, c.Blocks)
	for i, l := range linears {
		if blocks[l.Block] == nil {
			blocks[l.Block] = map[checkpoint.Role]Kept{}
		}
		blocks[l.Block][l.Role] = kept[i]
	}
	for _, b := range blocks {
		propagateMLP(b)
		propagateValues(c, b)
		if !c.QKNorm {
			propagateScores(c, b)
		}
	}
}

func propagateMLP(b map[checkpoint.Role]Kept) {
	up, down := b[checkpoint.Up].Rows, b[checkpoint.Down].Cols
	gate, gated := b[checkpoint.Gate]
	for j, kept := range up {
		alive := kept && down[j] && (!gated || gate.Rows[j])
		up[j], down[j] = alive, alive
		if gated {
			gate.Rows[j] = alive
		}
	}
}

// propagateValues couples row i of value head g with column i of each query head that reads it.
func propagateValues(c checkpoint.Config, b map[checkpoint.Role]Kept) {
	v, o := b[checkpoint.V].Rows, b[checkpoint.O].Cols
	for g := range c.KVHeads {
		for i := range c.HeadDim {
			readers := places(c, g, i)
			at := g*c.HeadDim + i
			v[at] = v[at] && anyOf(o, readers)
			if !v[at] {
				unmark(o, readers)
			}
		}
	}
}

// propagateScores couples the rows of k and q that are multiplied with each other. Rotary positions mix rows i and
// i + d/2, so there a pair counts as gone only when both are.
func propagateScores(c checkpoint.Config, b map[checkpoint.Role]Kept) {
	q, k := b[checkpoint.Q].Rows, b[checkpoint.K].Rows
	dims := make([][]int, 0, c.HeadDim)
	if c.Positions == checkpoint.Rotary {
		for i := range c.HeadDim / 2 {
			dims = append(dims, []int{i, i + c.HeadDim/2})
		}
	} else {
		for i := range c.HeadDim {
			dims = append(dims, []int{i})
		}
	}
	for g := range c.KVHeads {
		for _, pair := range dims {
			var keys, queries []int
			for _, i := range pair {
				keys = append(keys, g*c.HeadDim+i)
				queries = append(queries, places(c, g, i)...)
			}
			if !anyOf(k, keys) {
				unmark(q, queries)
			}
			if !anyOf(q, queries) {
				unmark(k, keys)
			}
		}
	}
}

// places are the positions of dimension i in the query heads that share key/value head g.
func places(c checkpoint.Config, g, i int) []int {
	group := c.Heads / c.KVHeads
	x := make([]int, group)
	for h := range group {
		x[h] = (g*group+h)*c.HeadDim + i
	}
	return x
}

func anyOf(marks []bool, at []int) bool {
	for _, i := range at {
		if marks[i] {
			return true
		}
	}
	return false
}

func unmark(marks []bool, at []int) {
	for _, i := range at {
		marks[i] = false
	}
}

// Restrict is a new copy of the R×C matrix w with zeros in all rows and columns that are not kept; the caller frees it.
func Restrict(d device.Device, w device.Tensor, kept Kept) device.Tensor {
	rows, cols := positions(kept.Rows), positions(kept.Cols)
	part := gather(d, w, rows, cols)
	full := d.Alloc(w.Rows, w.Cols, w.Type)
	d.Zero(full)
	d.Scatter(part, rows, cols, full)
	d.Free(part)
	return full
}
