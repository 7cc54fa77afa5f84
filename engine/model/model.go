// Package model holds a transformer on a device and runs it: forward to losses, and backward as far as the method needs,
// handing out on the way the input of every linear layer and the gradient at its output.
//
// One block serves all architectures; checkpoint.Config says which parts it has (RMSNorm or LayerNorm, before or after,
// rotary or learned positions, gated or plain MLP, biases, norms on q and k, sliding windows). With f the sublayers
// "attention" and "MLP", a block computes
//
//	norm first:  h ← h + f(norm(h))        norm last:  h ← norm(h + f(h))
//
// The loss of a sequence of T tokens is the sum of its T−1 next-token losses, and gradients are those of the sum
// (method.md section 1), so that they do not depend on how sequences are put into batches. No weight gradients are made,
// and the backward pass ends at the outputs of the first linear layers of block 0: 4 instead of 6 FLOP per weight and token.
//
// # Precision
//
// Weights and activations are of the model's type, float32, float64 or bfloat16. Logits, losses, the log-sum-exps of the
// attention and the rotary tables are of its Type.Acc, float32 for bfloat16. The weights of the linear layers of a bfloat16
// model have float32 masters in main memory (weight): Linear.Matrix and all other reading and writing of values sees those.
//
// # Memory
//
// For the backward pass a block keeps, per token, its input, its middle, q, k, v, the attention output, the log-sum-exp
// of each head, and what enters the activation: 4D + 2·Hkv·d + 2F values for a Llama-type model. Norm outputs and
// activation outputs are made again. Logits never exist for more than chunkElements / V tokens at a time.
package model

import (
	"context"
	"errors"
	"fmt"

	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
)

// Model is a transformer whose weights lie on a device.
type Model struct {
	Config checkpoint.Config
	Type   device.Type // of weights and activations

	dev       device.Device
	weights   []*weight // all tensors, under their names
	linears   []*Linear // in the order of Config.Linears
	embedding device.Tensor
	positions device.Tensor // learned positions, or none
	blocks    []block
	finalNorm norm          // zero where the architecture has none
	head      device.Tensor // V×D; the embedding where the head is tied
	passes    [2]*workspace // buffers of the last forward-only and the last forward-and-backward pass
	failedAt  string        // where in the passes the device was first found to have failed
}

// block is one transformer block.
type block struct {
	attnNorm, mlpNorm norm
	qNorm, kNorm      norm    // RMSNorm over each head; zero where there is none
	q, k, v, o        *Linear //
	gate, up, down    *Linear // gate is nil where the MLP is not gated
	window            int     // sliding window in tokens, 0 = none
}

// norm is RMSNorm, or LayerNorm where it has a bias.
type norm struct{ gain, bias device.Tensor }

// Load brings a checkpoint's weights to the device as type t. A weight that is NaN or infinite is an error that names its
// tensor. Between tensors it looks at ctx.
func Load(ctx context.Context, dev device.Device, c *checkpoint.Checkpoint, t device.Type) (*Model, error) {
	return load(ctx, dev, c, t, true)
}

// LoadFixed is Load for a model whose weights never change: it has no masters.
func LoadFixed(ctx context.Context, dev device.Device, c *checkpoint.Checkpoint, t device.Type) (*Model, error) {
	return load(ctx, dev, c, t, false)
}

func load(ctx context.Context, dev device.Device, c *checkpoint.Checkpoint, t device.Type, changes bool) (*Model, error) {
	m, err := assemble(ctx, dev, c.Config, c, t, changes)
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", c.Path, err)
	}
	return m, nil
}

// source is where weights come from.
type source interface {
	Shape(name string) []int
	Read(name string, dst []float32) error
}

// assemble makes a model of the architecture's parts; changes says whether the weights of its linear layers may change.
func assemble(ctx context.Context, dev device.Device, cfg checkpoint.Config, from source, t device.Type, changes bool) (*Model, error) {
	m := &Model{Config: cfg, Type: t, dev: dev}
	load := loader{ctx: ctx, dev: dev, source: from, typ: t, changes: changes}
	m.embedding = load.tensor(cfg.Names.Embedding + ".weight")
	if cfg.Positions == checkpoint.Learned {
		m.positions = load.tensor(cfg.Names.Positions + ".weight")
	}
	if cfg.FinalNorm {
		m.finalNorm = load.norm(cfg.Names.FinalNorm, cfg.Norm)
	}
	m.head = m.embedding
	if !cfg.TieHead {
		m.head = load.tensor(cfg.Names.Head + ".weight")
	}
	m.blocks = make([]block, cfg.Blocks)
	for i := range m.blocks {
		b, n := &m.blocks[i], cfg.BlockNorms(i)
		b.window = cfg.Window[i]
		b.attnNorm = load.norm(n.Attention, cfg.Norm)
		b.mlpNorm = load.norm(n.MLP, cfg.Norm)
		if cfg.QKNorm {
			b.qNorm = load.norm(n.Q, checkpoint.RMSNorm)
			b.kNorm = load.norm(n.K, checkpoint.RMSNorm)
		}
	}
	for _, spec := range cfg.Linears() {
		l := load.linear(spec)
		l.index = len(m.linears)
		m.linears = append(m.linears, l)
		b := &m.blocks[spec.Block]
		switch spec.Role {
		case checkpoint.Q:
			b.q = l
		case checkpoint.K:
			b.k = l
		case checkpoint.V:
			b.v = l
		case checkpoint.O:
			b.o = l
		case checkpoint.Gate:
			b.gate = l
		case checkpoint.Up:
			b.up = l
		case checkpoint.Down:
			b.down = l
		}
	}
	m.weights = load.weights
	if err := errors.Join(load.err, dev.Sync()); err != nil {
		m.Free()
		return nil, err
	}
	return m, nil
}

// Linears are the layers that can be pruned, in the order of Config.Linears.
func (m *Model) Linears() []*Linear { return m.linears }

// Device is where the model lives.
func (m *Model) Device() device.Device { return m.dev }

// loader reads tensors one after the other, through one host buffer if they have no master, and remembers the first error.
type loader struct {
	ctx     context.Context
	dev     device.Device
	source  source
	typ     device.Type
	changes bool // whether what may change gets a master
	buffer  []float32
	weights []*weight
	err     error
}

// tensor loads a matrix, or a vector as one row.
func (l *loader) tensor(name string) device.Tensor { return l.weight(name, false).tensor }

// weight loads the same as what changes, where changes is true: with a master, if the model's type is bfloat16.
func (l *loader) weight(name string, changes bool) *weight {
	w := &weight{name: name}
	if l.err == nil {
		l.err = l.ctx.Err()
	}
	if l.err != nil {
		return w
	}
	shape := l.source.Shape(name)
	rows, cols := 1, 1
	switch len(shape) {
	case 1:
		cols = shape[0]
	case 2:
		rows, cols = shape[0], shape[1]
	default:
		l.err = fmt.Errorf("tensor %s has shape %v; a vector or a matrix is needed", name, shape)
		return w
	}
	var values []float32
	if changes && l.changes && l.typ == device.BF16 {
		w.master = make([]float32, rows*cols)
		values = w.master
	} else {
		if cap(l.buffer) < rows*cols {
			l.buffer = make([]float32, rows*cols)
		}
		values = l.buffer[:rows*cols]
	}
	if l.err = l.source.Read(name, values); l.err != nil {
		return w
	}
	w.tensor = device.NewFrom(l.dev, values, rows, cols, l.typ)
	l.weights = append(l.weights, w)
	return w
}

// norm loads the gain, and the bias of a LayerNorm, of the norm whose tensors begin with name.
func (l *loader) norm(name string, kind checkpoint.Norm) norm {
	n := norm{gain: l.tensor(name + ".weight")}
	if kind == checkpoint.LayerNorm {
		n.bias = l.tensor(name + ".bias")
	}
	return n
}

func (l *loader) linear(spec checkpoint.Linear) *Linear {
	x := &Linear{Linear: spec, dev: l.dev, weight: l.weight(spec.WeightName(), true)}
	if spec.Bias {
		x.bias = l.weight(spec.BiasName(), true)
	}
	return x
}
