package model

import (
	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
)

// chunkElements bounds the logits that exist at one time: 64 MiB in float32.
const chunkElements = 1 << 24

// workspace is what one pass over a batch needs beside the weights. It is made once per shape of batch and used again, so
// that the inner loop allocates nothing.
type workspace struct {
	length int             // tokens per sequence
	n      int             // tokens of the batch
	h      []device.Tensor // N×D: the input of each block, then the output of the last
	blocks []activations

	cos, sin device.Tensor // rotary tables, T×d/2, of type Acc
	x        device.Tensor // N×D: output of a norm, or gradient at it
	inner    device.Tensor // N×F: input of down, or gradient at it
	logits   device.Tensor // at most chunkElements, of type Acc
	losses   device.Tensor // 1×N, of type Acc

	dh, datt, dq, dk, dv device.Tensor // gradients; only for a backward pass
	dlogits              device.Tensor // the gradient at logits in the model's type, where that is not theirs; else it takes their place

	owned []device.Tensor
}

// activations is what one block keeps for its backward pass.
type activations struct {
	q, k, v, att, lse device.Tensor // q and k as they enter the attention
	qRaw, kRaw        device.Tensor // q and k before their norms, where they have norms
	mid               device.Tensor // N×D: after the attention
	sumAttn, sumMLP   device.Tensor // N×D: before the norms, where these come last
	gate, up          device.Tensor // N×F: what enters the activation
}

// workspace returns buffers for the batch. A forward-only pass lets all blocks share one set.
func (m *Model) workspace(batch [][]int32, backward bool) *workspace {
	length, kind := len(batch[0]), 0
	if backward {
		kind = 1
	}
	for _, ids := range batch {
		if len(ids) != length {
			panic(device.Misuse("model: the sequences of a batch differ in length"))
		}
	}
	if ws := m.passes[kind]; ws != nil {
		if ws.length == length && ws.n == length*len(batch) {
			return ws
		}
		m.dev.Free(ws.owned...)
	}
	m.passes[kind] = m.newWorkspace(length, len(batch), backward)
	return m.passes[kind]
}

// Release frees the buffers of past passes.
func (m *Model) Release() {
	for i, ws := range m.passes {
		if ws != nil {
			m.dev.Free(ws.owned...)
			m.passes[i] = nil
		}
	}
}

func (m *Model) newWorkspace(length, sequences int, backward bool) *workspace {
	var owned []device.Tensor
	ws := layout(m.Config, m.Type, length, sequences, backward, func(rows, cols int, t device.Type) device.Tensor {
		x := m.dev.Alloc(rows, cols, t)
		owned = append(owned, x)
		return x
	})
	ws.owned = owned
	if m.Config.Positions == checkpoint.Rotary {
		cos, sin := ropeTables(m.Config.Rope, m.Config.HeadDim, length)
		device.UploadSlice(m.dev, cos, ws.cos)
		device.UploadSlice(m.dev, sin, ws.sin)
	}
	return ws
}

// WorkspaceBytes is the memory that a pass over so many sequences needs beside the weights, on a device of such pages.
func WorkspaceBytes(page device.Page, c checkpoint.Config, t device.Type, length, sequences int, backward bool) int64 {
	var bytes int64
	layout(c, t, length, sequences, backward, func(rows, cols int, t device.Type) device.Tensor {
		bytes += page.Tensor(rows, cols, t)
		return device.Tensor{Rows: rows, Cols: cols, Type: t}
	})
	return bytes
}

// layout makes a workspace of what alloc returns.
func layout(c checkpoint.Config, t device.Type, length, sequences int, backward bool, alloc func(rows, cols int, t device.Type) device.Tensor) *workspace {
	ws := &workspace{length: length, n: length * sequences}
	wide := func(cols int) device.Tensor { return alloc(ws.n, cols, t) }
	queries, keys := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	block := func() activations {
		a := activations{q: wide(queries), k: wide(keys), v: wide(keys), att: wide(queries), mid: wide(c.Width), up: wide(c.Inner)}
		if backward {
			a.lse = alloc(ws.n, c.Heads, t.Acc())
		}
		if c.Activation == checkpoint.SwiGLU {
			a.gate = wide(c.Inner)
		}
		if c.QKNorm {
			a.qRaw, a.kRaw = wide(queries), wide(keys)
		}
		if !c.NormFirst {
			a.sumAttn, a.sumMLP = wide(c.Width), wide(c.Width)
		}
		return a
	}
	ws.x, ws.inner = wide(c.Width), wide(c.Inner)
	ws.losses = alloc(1, ws.n, t.Acc())
	chunk := max(1, min(ws.n, chunkElements/c.Vocab))
	ws.logits = alloc(chunk, c.Vocab, t.Acc())
	ws.h = make([]device.Tensor, c.Blocks+1)
	ws.blocks = make([]activations, c.Blocks)
	for i := range ws.blocks {
		if i == 0 || backward {
			ws.h[i], ws.blocks[i] = wide(c.Width), block()
		} else {
			ws.h[i], ws.blocks[i] = ws.h[0], ws.blocks[0]
		}
	}
	ws.h[c.Blocks] = ws.h[0]
	if backward {
		ws.h[c.Blocks] = wide(c.Width)
		ws.dh, ws.datt, ws.dq = wide(c.Width), wide(queries), wide(queries)
		ws.dk, ws.dv = wide(keys), wide(keys)
		if t != t.Acc() {
			ws.dlogits = alloc(chunk, c.Vocab, t)
		}
	}
	if c.Positions == checkpoint.Rotary {
		ws.cos, ws.sin = alloc(length, c.HeadDim/2, t.Acc()), alloc(length, c.HeadDim/2, t.Acc())
	}
	return ws
}
