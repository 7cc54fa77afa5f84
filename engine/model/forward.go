package model

import (
	"fmt"
	"math"
	"slices"

	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
)

// Tap is handed, while the passes go by, what the curvature is made of. A tensor is valid during the call only.
type Tap interface {
	// Input is given the N×C input with index Linear.Input, once per batch, in the order of the forward pass.
	Input(index int, x device.Tensor)
	// Gradients is given the N×R gradients of the summed loss at the outputs of the layers with these indexes in Linears, once
	// per batch, in the order of the backward pass: those of q, k and v together, and those of gate and up.
	Gradients(indexes []int, gs []device.Tensor)
}

// Pairs is a Tap that needs the input of a layer and the gradient at its output together. The inputs are made again for it
// on the way back: the norms and activations of a block once more, and no products.
type Pairs interface {
	Tap
	// Pair is given the N×C input, without a constant 1, and the N×R output gradient of the layer with that index in
	// Linears, after Gradients.
	Pair(index int, x, g device.Tensor)
}

// Losses runs forward and returns, for each sequence, the mean of its next-token losses in nats. Sequences have one length.
func (m *Model) Losses(batch [][]int32) ([]float64, error) { return m.Forward(batch, nil) }

// Forward is Losses, and hands the inputs to tap. There are no gradients.
func (m *Model) Forward(batch [][]int32, tap Tap) ([]float64, error) {
	ws := m.workspace(batch, false)
	m.forward(ws, batch, tap)
	m.headLoss(ws, theseTokens(nextTokens(batch)), false)
	return m.means(ws, m.tokenLosses(ws))
}

// LogLikelihoods runs forward and returns, for each sequence, Σ_t log p(targets_t | inputs_1 … inputs_t) in nats, over the
// positions whose target is not negative. Inputs and targets have one length; what stands behind a sequence's last target
// changes nothing, so shorter ones may be filled up with any token. The probabilities are of type Acc, the sum is float64.
func (m *Model) LogLikelihoods(inputs, targets [][]int32) ([]float64, error) {
	ws := m.workspace(inputs, false)
	if len(targets) != len(inputs) {
		panic(device.Misuse(fmt.Sprintf("model: %d sequences and targets for %d", len(inputs), len(targets))))
	}
	for s, ids := range targets {
		if len(ids) != ws.length {
			panic(device.Misuse(fmt.Sprintf("model: sequence %d has %d tokens and %d targets", s, ws.length, len(ids))))
		}
	}
	m.forward(ws, inputs, nil)
	m.headLoss(ws, theseTokens(slices.Concat(targets...)), false)
	sums, err := m.sums(ws, m.tokenLosses(ws))
	for s, sum := range sums {
		sums[s] = 0 - sum // not −sum: a loss of 0 is a log-likelihood of 0, not of −0
	}
	return sums, err
}

// ForwardBackward runs both passes for the summed loss and hands inputs and output gradients to tap. It returns the mean
// loss of each sequence. A loss that is not finite is an error that names the sequence by its place in the batch.
func (m *Model) ForwardBackward(batch [][]int32, tap Tap) ([]float64, error) {
	ws := m.workspace(batch, true)
	m.forward(ws, batch, tap)
	m.headLoss(ws, theseTokens(nextTokens(batch)), true)
	m.backward(ws, tap)
	return m.means(ws, m.tokenLosses(ws))
}

// ForwardSampled runs forward once, and backward once for each row of uniform, for next tokens that are drawn from the
// model's own softmax instead of the true ones: uniform[k] holds a number 0 ≤ u < 1 for every token of the batch, by which
// the one after it is drawn (device.Sample). tap gets the inputs once and gradients for each row. The losses returned are those
// of the true tokens.
//
// Beside its backward pass, a row costs the logits once more, and from the second on the products of gate and up, whose
// outputs a backward pass leaves as gradients.
func (m *Model) ForwardSampled(batch [][]int32, uniform [][]float64, tap Tap) ([]float64, error) {
	ws := m.workspace(batch, true)
	m.forward(ws, batch, tap)
	m.headLoss(ws, theseTokens(nextTokens(batch)), false)
	losses := m.tokenLosses(ws)
	for k, u := range uniform {
		if k > 0 {
			m.activate(ws)
		}
		m.headLoss(ws, m.sampled(ws, u), true)
		m.backward(ws, tap)
	}
	return m.means(ws, losses)
}

// activate makes again, from the middle of every block, what enters its activation.
func (m *Model) activate(ws *workspace) {
	for i := range m.blocks {
		b, a := &m.blocks[i], &ws.blocks[i]
		x := m.mlpInput(ws, b, a)
		b.up.forward(x, 0, a.up)
		if b.gate != nil {
			b.gate.forward(x, 0, a.gate)
		}
	}
}

// Logits is the N×V matrix of logits of a batch, of type Acc; the caller frees it. Meant for short sequences: it is not chunked.
func (m *Model) Logits(batch [][]int32) device.Tensor {
	ws := m.workspace(batch, false)
	m.forward(ws, batch, nil)
	logits := m.dev.Alloc(ws.n, m.Config.Vocab, m.Type.Acc())
	m.normalise(m.finalNorm, ws.h[m.Config.Blocks], ws.x)
	m.dev.Gemm(false, true, 1, ws.x, m.head, 0, logits)
	return logits
}

// forward runs the blocks. Afterwards ws.h[Blocks] is what enters the final norm.
func (m *Model) forward(ws *workspace, batch [][]int32, tap Tap) {
	d, cfg := m.dev, m.Config
	for s, ids := range batch {
		h := ws.h[0].Slice(s*ws.length, (s+1)*ws.length)
		d.Embed(m.embedding, ids, 0, h)
		if cfg.Positions == checkpoint.Learned {
			d.Embed(m.positions, span(cfg.PositionOffset, cfg.PositionOffset+ws.length), 1, h)
		}
	}
	for i := range m.blocks {
		b, a := &m.blocks[i], &ws.blocks[i]
		m.attentionForward(ws, i, b, a, tap)
		m.mlpForward(ws, i, b, a, tap)
		m.passed("forward", i)
	}
}

// attentionForward makes the block's middle a.mid from its input ws.h[i].
func (m *Model) attentionForward(ws *workspace, i int, b *block, a *activations, tap Tap) {
	d, cfg := m.dev, m.Config
	x := m.attentionInput(ws, i, b)
	emit(tap, b.q.Input(), x)
	b.q.forward(x, 0, a.q)
	b.k.forward(x, 0, a.k)
	b.v.forward(x, 0, a.v)
	if cfg.QKNorm {
		d.Copy(a.q, a.qRaw)
		d.Copy(a.k, a.kRaw)
		m.normalise(b.qNorm, m.heads(a.q), m.heads(a.q))
		m.normalise(b.kNorm, m.heads(a.k), m.heads(a.k))
	}
	if cfg.Positions == checkpoint.Rotary {
		d.Rope(ws.cos, ws.sin, false, a.q)
		d.Rope(ws.cos, ws.sin, false, a.k)
	}
	d.Attention(m.attention(ws, b), a.q, a.k, a.v, a.att, a.lse)
	emit(tap, b.o.Input(), a.att)
	if cfg.NormFirst {
		d.Copy(ws.h[i], a.mid)
		b.o.forward(a.att, 1, a.mid)
	} else {
		d.Copy(ws.h[i], a.sumAttn)
		b.o.forward(a.att, 1, a.sumAttn)
		m.normalise(b.attnNorm, a.sumAttn, a.mid)
	}
}

// attentionInput is what q, k and v of block i read; it may be in ws.x.
func (m *Model) attentionInput(ws *workspace, i int, b *block) device.Tensor {
	if !m.Config.NormFirst {
		return ws.h[i]
	}
	m.normalise(b.attnNorm, ws.h[i], ws.x)
	return ws.x
}

// mlpForward makes the next block's input ws.h[i+1] from the middle.
func (m *Model) mlpForward(ws *workspace, i int, b *block, a *activations, tap Tap) {
	d, cfg := m.dev, m.Config
	x := m.mlpInput(ws, b, a)
	emit(tap, b.up.Input(), x)
	b.up.forward(x, 0, a.up)
	if b.gate != nil {
		b.gate.forward(x, 0, a.gate)
	}
	m.activation(ws, b, a)
	emit(tap, b.down.Input(), ws.inner)
	if cfg.NormFirst {
		d.Copy(a.mid, ws.h[i+1])
		b.down.forward(ws.inner, 1, ws.h[i+1])
	} else {
		d.Copy(a.mid, a.sumMLP)
		b.down.forward(ws.inner, 1, a.sumMLP)
		m.normalise(b.mlpNorm, a.sumMLP, ws.h[i+1])
	}
}

// mlpInput is what gate and up read; it may be in ws.x.
func (m *Model) mlpInput(ws *workspace, b *block, a *activations) device.Tensor {
	if !m.Config.NormFirst {
		return a.mid
	}
	m.normalise(b.mlpNorm, a.mid, ws.x)
	return ws.x
}

// activation makes ws.inner, what down reads.
func (m *Model) activation(ws *workspace, b *block, a *activations) {
	if b.gate != nil {
		m.dev.SwiGLU(a.gate, a.up, ws.inner)
	} else {
		m.dev.ReLU(a.up, ws.inner)
	}
}

// choice says which token is the target of each of those in rows i to j−1, −1 for none, given their logits.
type choice func(i, j int, logits device.Tensor) []int32

// theseTokens are targets that stand already.
func theseTokens(targets []int32) choice {
	return func(i, j int, _ device.Tensor) []int32 { return targets[i:j] }
}

// nextTokens are the targets of each position of a batch: the token behind it, and none for the last.
func nextTokens(batch [][]int32) []int32 {
	var targets []int32
	for _, ids := range batch {
		targets = append(append(targets, ids[1:]...), -1)
	}
	return targets
}

// sampled are tokens drawn by uniform, one number for every token.
func (m *Model) sampled(ws *workspace, uniform []float64) choice {
	return func(i, j int, logits device.Tensor) []int32 {
		ids := make([]int32, j-i)
		m.dev.Sample(logits, uniform[i:j], ids)
		for k := range ids {
			if (i+k+1)%ws.length == 0 { // the last of a sequence
				ids[k] = -1
			}
		}
		return ids
	}
}

// headLoss makes ws.losses for the target of each position, 0 where there is none, and with grad also ws.dh, the gradient at
// the output of the last block. Logits are made for a few rows at a time.
func (m *Model) headLoss(ws *workspace, next choice, grad bool) {
	d := m.dev
	last := ws.h[m.Config.Blocks]
	m.normalise(m.finalNorm, last, ws.x)
	for i := 0; i < ws.n; i += ws.logits.Rows {
		j := min(i+ws.logits.Rows, ws.n)
		logits := ws.logits.Slice(0, j-i)
		d.Gemm(false, true, 1, ws.x.Slice(i, j), m.head, 0, logits)
		d.CrossEntropy(logits, next(i, j, logits), grad, ws.losses.Reshape(ws.n, 1).Slice(i, j).Reshape(1, j-i))
		if !grad {
			continue
		}
		dlogits := logits
		if !ws.dlogits.IsZero() {
			dlogits = ws.dlogits.Slice(0, j-i)
			d.Copy(logits, dlogits)
		}
		d.Gemm(false, false, 1, dlogits, m.head, 0, ws.dh.Slice(i, j))
	}
	if grad {
		m.normaliseBackward(m.finalNorm, last, ws.dh, 0, ws.dh)
	}
}

// tokenLosses downloads the losses of all tokens.
func (m *Model) tokenLosses(ws *workspace) []float64 {
	return device.DownloadSlice[float64](m.dev, ws.losses)
}

// means are the sums of a sequence's losses over its next tokens, one fewer than it has.
func (m *Model) means(ws *workspace, perToken []float64) ([]float64, error) {
	losses, err := m.sums(ws, perToken)
	for s := range losses {
		losses[s] /= float64(ws.length - 1)
	}
	return losses, err
}

// sums waits for the passes and adds up the losses of all tokens per sequence, in float64.
func (m *Model) sums(ws *workspace, perToken []float64) ([]float64, error) {
	if err := m.dev.Sync(); err != nil {
		if m.failedAt != "" {
			err = fmt.Errorf("%s: %w", m.failedAt, err)
		}
		return nil, err
	}
	sums := make([]float64, ws.n/ws.length)
	for s := range sums {
		for _, l := range perToken[s*ws.length : (s+1)*ws.length] {
			sums[s] += l
		}
		if math.IsNaN(sums[s]) || math.IsInf(sums[s], 0) {
			return nil, &NonFiniteLoss{Sequence: s, Loss: sums[s]}
		}
	}
	return sums, nil
}

// passed remembers the block in which a failure of the device shows. A kernel that was queued and fails later shows only when
// the losses are waited for, without a place.
func (m *Model) passed(pass string, block int) {
	if m.failedAt == "" && m.dev.Err() != nil {
		m.failedAt = fmt.Sprintf("%s pass, block %d", pass, block)
	}
}

// NonFiniteLoss is the error of a sequence whose loss is NaN or infinite.
type NonFiniteLoss struct {
	Sequence int // place in the batch
	Loss     float64
}

func (e *NonFiniteLoss) Error() string {
	return fmt.Sprintf("the loss of sequence %d is %v", e.Sequence, e.Loss)
}

// emit hands x to a tap that is there.
func emit(tap Tap, index int, x device.Tensor) {
	if tap != nil {
		tap.Input(index, x)
	}
}

// normalise is y ← norm(x); a norm that the architecture does not have copies.
func (m *Model) normalise(n norm, x, y device.Tensor) {
	switch {
	case n.gain.IsZero():
		m.dev.Copy(x, y)
	case n.bias.IsZero():
		m.dev.RMSNorm(x, n.gain, m.Config.NormEps, y)
	default:
		m.dev.LayerNorm(x, n.gain, n.bias, m.Config.NormEps, y)
	}
}

// heads sees the N×(heads·d) matrix x as one row per head.
func (m *Model) heads(x device.Tensor) device.Tensor {
	d := m.Config.HeadDim
	return x.Reshape(x.Len()/d, d)
}

func (m *Model) attention(ws *workspace, b *block) device.Heads {
	c := m.Config
	return device.Heads{Length: ws.length, Query: c.Heads, KeyValue: c.KVHeads, Dim: c.HeadDim,
		Scale: 1 / math.Sqrt(float64(c.HeadDim)), Window: b.window}
}
