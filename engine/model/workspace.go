package model

import "surgeon/engine/device"

// chunkElements bounds the logits that exist at one time: 64 MiB in float32.
const chunkElements = 1 << 24

// workspace is what one pass over a batch needs beside the weights. It is made once per shape of batch and used again, so
// that the inner loop allocates nothing.
type workspace struct {
	length int             // tokens per sequence
	n      int             // tokens of the batch
	h      []device.Tensor // N×D: the input of each block, then the output of the last
	blocks []activations

	cos, sin device.Tensor // rotary tables, T×d/2
	x        device.Tensor // N×D: output of a norm, or gradient at it
	inner    device.Tensor // N×F: input of down, or gradient at it
	logits   device.Tensor // at most chunkElements
	losses   device.Tensor // 1×N

	dh, datt, dq, dk, dv device.Tensor // gradients; only for a backward pass

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
	c := m.Config
	ws := &workspace{length: length, n: length * sequences}
	alloc := func(rows, cols int, t device.Type) device.Tensor {
		x := m.dev.Alloc(rows, cols, t)
		ws.owned = append(ws.owned, x)
		return x
	}
	wide := func(cols int) device.Tensor { return alloc(ws.n, cols, m.Type) }
	acc := m.Type.Acc()
	block := func() activations {
		a := activations{
			q: wide(c.Heads * c.HeadDim), k: wide(c.KVHeads * c.HeadDim), v: wide(c.KVHeads * c.HeadDim),
			att: wide(c.Heads * c.HeadDim), mid: wide(c.Width), up: wide(c.Inner),
		}
		if backward {
			a.lse = alloc(ws.n, c.Heads, acc)
		}
		if m.blocks[0].gate != nil {
			a.gate = wide(c.Inner)
		}
		if c.QKNorm {
			a.qRaw, a.kRaw = wide(c.Heads*c.HeadDim), wide(c.KVHeads*c.HeadDim)
		}
		if !c.NormFirst {
			a.sumAttn, a.sumMLP = wide(c.Width), wide(c.Width)
		}
		return a
	}
	ws.x, ws.inner = wide(c.Width), wide(c.Inner)
	ws.losses = alloc(1, ws.n, acc)
	ws.logits = alloc(max(1, min(ws.n, chunkElements/c.Vocab)), c.Vocab, m.Type)
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
		ws.dh, ws.datt, ws.dq = wide(c.Width), wide(c.Heads*c.HeadDim), wide(c.Heads*c.HeadDim)
		ws.dk, ws.dv = wide(c.KVHeads*c.HeadDim), wide(c.KVHeads*c.HeadDim)
	}
	if m.positions.IsZero() {
		cos, sin := ropeTables(c.Rope, c.HeadDim, length)
		ws.cos, ws.sin = alloc(length, c.HeadDim/2, m.Type), alloc(length, c.HeadDim/2, m.Type)
		device.UploadSlice(m.dev, cos, ws.cos)
		device.UploadSlice(m.dev, sin, ws.sin)
	}
	return ws
}
