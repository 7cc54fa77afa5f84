package model

import (
	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
)

// backward goes from ws.dh, the gradient at the last block's output, to the outputs of block 0's first linear layers. On
// the way ws.dh is, in turn, the gradient at each block's output, middle and input.
func (m *Model) backward(ws *workspace, tap Tap) {
	for i := len(m.blocks) - 1; i >= 0; i-- {
		b, a := &m.blocks[i], &ws.blocks[i]
		m.mlpBackward(ws, b, a, tap)
		m.attentionBackward(ws, i, b, a, tap)
		m.passed("backward", i)
	}
}

// mlpBackward turns ws.dh from the gradient at the block's output into that at its middle.
func (m *Model) mlpBackward(ws *workspace, b *block, a *activations, tap Tap) {
	d, cfg := m.dev, m.Config
	if !cfg.NormFirst {
		m.normaliseBackward(b.mlpNorm, a.sumMLP, ws.dh, 0, ws.dh)
	}
	pairs, paired := tap.(Pairs)
	gradients(tap, []*Linear{b.down}, ws.dh)
	if paired { // before ws.inner becomes a gradient
		m.activation(ws, b, a)
		pairs.Pair(b.down.index, ws.inner, ws.dh)
	}
	b.down.backward(ws.dh, 0, ws.inner)
	if b.gate != nil {
		d.SwiGLUBackward(a.gate, a.up, ws.inner, a.gate, a.up)
		gradients(tap, []*Linear{b.gate, b.up}, a.gate, a.up)
	} else {
		d.ReLUBackward(a.up, ws.inner, a.up)
		gradients(tap, []*Linear{b.up}, a.up)
	}
	if paired { // before ws.x becomes a gradient
		x := m.mlpInput(ws, b, a)
		if b.gate != nil {
			pairs.Pair(b.gate.index, x, a.gate)
		}
		pairs.Pair(b.up.index, x, a.up)
	}
	if cfg.NormFirst {
		b.up.backward(a.up, 0, ws.x)
		if b.gate != nil {
			b.gate.backward(a.gate, 1, ws.x)
		}
		m.normaliseBackward(b.mlpNorm, a.mid, ws.x, 1, ws.dh)
		return
	}
	b.up.backward(a.up, 1, ws.dh)
	if b.gate != nil {
		b.gate.backward(a.gate, 1, ws.dh)
	}
}

// attentionBackward turns ws.dh from the gradient at the block's middle into that at its input. For block 0 it ends at the
// gradients of q, k and v: nothing below is needed.
func (m *Model) attentionBackward(ws *workspace, i int, b *block, a *activations, tap Tap) {
	d, cfg := m.dev, m.Config
	if !cfg.NormFirst {
		m.normaliseBackward(b.attnNorm, a.sumAttn, ws.dh, 0, ws.dh)
	}
	pairs, paired := tap.(Pairs)
	gradients(tap, []*Linear{b.o}, ws.dh)
	if paired {
		pairs.Pair(b.o.index, a.att, ws.dh)
	}
	b.o.backward(ws.dh, 0, ws.datt)
	d.AttentionBackward(m.attention(ws, b), a.q, a.k, a.v, a.att, a.lse, ws.datt, ws.dq, ws.dk, ws.dv)
	if cfg.Positions == checkpoint.Rotary {
		d.Rope(ws.cos, ws.sin, true, ws.dq)
		d.Rope(ws.cos, ws.sin, true, ws.dk)
	}
	if cfg.QKNorm {
		m.normaliseBackward(b.qNorm, m.heads(a.qRaw), m.heads(ws.dq), 0, m.heads(ws.dq))
		m.normaliseBackward(b.kNorm, m.heads(a.kRaw), m.heads(ws.dk), 0, m.heads(ws.dk))
	}
	gradients(tap, []*Linear{b.q, b.k, b.v}, ws.dq, ws.dk, ws.dv)
	if paired {
		x := m.attentionInput(ws, i, b)
		pairs.Pair(b.q.index, x, ws.dq)
		pairs.Pair(b.k.index, x, ws.dk)
		pairs.Pair(b.v.index, x, ws.dv)
	}
	if i == 0 {
		return
	}
	dx, beta := ws.x, 0.0
	if !cfg.NormFirst {
		dx, beta = ws.dh, 1
	}
	b.q.backward(ws.dq, beta, dx)
	b.k.backward(ws.dk, 1, dx)
	b.v.backward(ws.dv, 1, dx)
	if cfg.NormFirst {
		m.normaliseBackward(b.attnNorm, ws.h[i], ws.x, 1, ws.dh)
	}
}

// gradients hands the gradients at the outputs of ls to a tap that is there.
func gradients(tap Tap, ls []*Linear, gs ...device.Tensor) {
	if tap == nil {
		return
	}
	indexes := make([]int, len(ls))
	for k, l := range ls {
		indexes[k] = l.index
	}
	tap.Gradients(indexes, gs)
}

// normaliseBackward is dx ← Jᵀ·dy + β·dx, J the derivative of normalise at x. dx may be dy.
func (m *Model) normaliseBackward(n norm, x, dy device.Tensor, beta float64, dx device.Tensor) {
	switch {
	case n.gain.IsZero():
		if dx != dy {
			panic(device.Misuse("model: the backward pass of an absent norm is the identity, in place"))
		}
	case n.bias.IsZero():
		m.dev.RMSNormBackward(x, n.gain, m.Config.NormEps, dy, beta, dx)
	default:
		m.dev.LayerNormBackward(x, n.gain, m.Config.NormEps, dy, beta, dx)
	}
}
