package checkpoint

import (
	"strconv"
	"strings"
)

// Norm is the kind of normalisation.
type Norm int

const (
	RMSNorm   Norm = iota // x / √(mean x² + ε) ∘ weight
	LayerNorm             // (x − mean) / √(var + ε) ∘ weight + bias
)

// Activation is what stands between the two halves of the MLP.
type Activation int

const (
	SwiGLU Activation = iota // down(silu(gate(x)) ∘ up(x))
	ReLU                     // down(max(0, up(x))), no gate
)

// Positions says how a token learns where it stands.
type Positions int

const (
	Rotary  Positions = iota // queries and keys are rotated by angles position · frequency
	Learned                  // row position + PositionOffset of a matrix is added to the embedding
)

// RopeKind says how rotary frequencies are stretched for long texts.
type RopeKind int

const (
	RopeDefault RopeKind = iota // f_i = Base^(−2i/HeadDim)
	RopeLinear                  // f_i / Factor
	RopeLlama3                  // f_i, f_i / Factor, and a blend in between, by the wavelength 2π/f_i against OriginalMax
)

// Rope holds the parameters of rotary positions. What the kind does not use is 0.
type Rope struct {
	Kind           RopeKind
	Base           float64
	Factor         float64 // Linear, Llama3
	LowFreqFactor  float64 // Llama3: wavelengths above OriginalMax / LowFreqFactor are divided by Factor
	HighFreqFactor float64 // Llama3: wavelengths below OriginalMax / HighFreqFactor stay
	OriginalMax    int     // Llama3: positions the model was first trained with
}

// Config is an architecture with every option resolved to a value: whoever computes with it needs no special case for a
// family and no default.
type Config struct {
	Family       string // model_type: llama, mistral, qwen2, qwen3 or opt
	Vocab        int    // V
	Width        int    // D
	Inner        int    // F, width of the MLP
	Blocks       int
	Heads        int // H
	KVHeads      int // Hkv, divides Heads
	HeadDim      int // d; Heads·HeadDim need not be Width
	MaxPositions int

	Norm       Norm
	NormEps    float64
	NormFirst  bool // norms stand before attention and MLP (true) or after the residual sum (false)
	FinalNorm  bool // one more norm before the head
	Activation Activation

	QKVBias, OBias, MLPBias bool // which linear layers have a bias
	QKNorm                  bool // RMS norm over each head of q and k, before the rotation

	Positions      Positions
	PositionOffset int // Learned: the first row that is used
	Rope           Rope

	// Window of each block: 0 sees all tokens before, n > 0 only the last n, itself included (i − j < n).
	Window []int

	TieHead bool // the head is the embedding
	Names   Names
}

// Role of a linear layer in its block.
type Role int

// The roles, in the order in which Linears lists them.
const (
	Q Role = iota
	K
	V
	O
	Gate
	Up   // OPT's fc1
	Down // OPT's fc2
	roles
)

func (r Role) String() string {
	return [roles]string{"q", "k", "v", "o", "gate", "up", "down"}[r]
}

// Names is the naming scheme of an architecture. All are module paths: the tensors are <module>.weight and <module>.bias.
type Names struct {
	Embedding string // V×D
	Positions string // (MaxPositions + PositionOffset)×D; "" where positions are rotary
	FinalNorm string
	Head      string // V×D

	block         string // path of a block, * standing for its number
	attentionNorm string // within a block, as all that follows
	mlpNorm       string
	qNorm, kNorm  string
	linear        [roles]string
}

// Linear is one prunable layer, y = W x + b with W of Rows×Cols.
type Linear struct {
	Name  string // module path: model.layers.0.self_attn.q_proj
	Block int
	Role  Role
	Rows  int  // R
	Cols  int  // C without the bias
	Bias  bool // has a bias of Rows elements
}

// Consumer says whether the layer reads what its block's heads, or neurons, compute: o, or down.
func (l Linear) Consumer() bool { return l.Role == O || l.Role == Down }

// WeightName is the name of the layer's matrix.
func (l Linear) WeightName() string { return l.Name + ".weight" }

// BiasName is the name of the layer's bias, "" where it has none.
func (l Linear) BiasName() string {
	if !l.Bias {
		return ""
	}
	return l.Name + ".bias"
}

// Linears lists every linear layer inside the blocks, block by block in the order q k v o gate up down: all that pruning
// touches. Architectures without a gate have none in the list.
func (c Config) Linears() []Linear {
	list := make([]Linear, 0, c.Blocks*int(roles))
	for b := range c.Blocks {
		for role := range roles {
			if c.Names.linear[role] == "" {
				continue
			}
			l := Linear{Name: c.module(b, c.Names.linear[role]), Block: b, Role: role}
			switch role {
			case Q:
				l.Rows, l.Cols, l.Bias = c.Heads*c.HeadDim, c.Width, c.QKVBias
			case K, V:
				l.Rows, l.Cols, l.Bias = c.KVHeads*c.HeadDim, c.Width, c.QKVBias
			case O:
				l.Rows, l.Cols, l.Bias = c.Width, c.Heads*c.HeadDim, c.OBias
			case Gate, Up:
				l.Rows, l.Cols, l.Bias = c.Inner, c.Width, c.MLPBias
			case Down:
				l.Rows, l.Cols, l.Bias = c.Width, c.Inner, c.MLPBias
			}
			list = append(list, l)
		}
	}
	return list
}

// BlockNorms holds the module paths of the norms of one block. With NormFirst they stand before attention and MLP, else
// after each residual sum.
type BlockNorms struct {
	Attention, MLP string
	Q, K           string // "" without QKNorm
}

// BlockNorms names the norms of block b.
func (c Config) BlockNorms(b int) BlockNorms {
	n := BlockNorms{Attention: c.module(b, c.Names.attentionNorm), MLP: c.module(b, c.Names.mlpNorm)}
	if c.QKNorm {
		n.Q, n.K = c.module(b, c.Names.qNorm), c.module(b, c.Names.kNorm)
	}
	return n
}

func (c Config) module(b int, name string) string {
	return strings.Replace(c.Names.block, "*", strconv.Itoa(b), 1) + "." + name
}

// Shapes are the shapes of all tensors of the architecture, by name.
func (c Config) Shapes() map[string][]int {
	shapes := map[string][]int{}
	for _, t := range c.tensors() {
		shapes[t.name] = t.shape
	}
	return shapes
}

// shaped is the name and shape of a tensor that the architecture has.
type shaped struct {
	name  string
	shape []int
}

// tensors lists every tensor of the model. A tied head has no tensor of its own.
func (c Config) tensors() []shaped {
	var list []shaped
	add := func(name string, shape ...int) { list = append(list, shaped{name, shape}) }
	norm := func(module string, n int, kind Norm) {
		add(module+".weight", n)
		if kind == LayerNorm {
			add(module+".bias", n)
		}
	}
	add(c.Names.Embedding+".weight", c.Vocab, c.Width)
	if c.Positions == Learned {
		add(c.Names.Positions+".weight", c.MaxPositions+c.PositionOffset, c.Width)
	}
	linears := c.Linears()
	for b := range c.Blocks {
		n := c.BlockNorms(b)
		norm(n.Attention, c.Width, c.Norm)
		norm(n.MLP, c.Width, c.Norm)
		if c.QKNorm {
			norm(n.Q, c.HeadDim, RMSNorm)
			norm(n.K, c.HeadDim, RMSNorm)
		}
		for ; len(linears) > 0 && linears[0].Block == b; linears = linears[1:] {
			l := linears[0]
			add(l.WeightName(), l.Rows, l.Cols)
			if l.Bias {
				add(l.BiasName(), l.Rows)
			}
		}
	}
	if c.FinalNorm {
		norm(c.Names.FinalNorm, c.Width, c.Norm)
	}
	if !c.TieHead {
		add(c.Names.Head+".weight", c.Vocab, c.Width)
	}
	return list
}
