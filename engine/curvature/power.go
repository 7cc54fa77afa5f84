package curvature

import (
	"fmt"
	"math"
	"slices"

	"surgeon/engine/device"
	"surgeon/engine/model"
)

// The nearest Kronecker product. F, its entries put in the order F̃[(r,r'), (c,c')], is (1/N) Σ_t vec(g gᵀ) vec(a aᵀ)ᵀ, and the
// G ⊗ A nearest to F is the best approximation of F̃ by vec(G) vec(A)ᵀ: its first pair of singular vectors. The power method
// finds it without F, a pass over all windows for each half step, from an A of all ones or of the last shot,
//
//	G ← (1/N) Σ_t (a_tᵀ A a_t) g_t g_tᵀ,  G ← G/‖G‖
//	A ← (1/N) Σ_t (g_tᵀ G g_t) a_t a_tᵀ,  σ = ‖A‖,  A ← A/σ
//
// and the product is √σ G ⊗ √σ A. Norms are Frobenius norms. For the next product the sums lose what those before have of
// them, deflation: G ← G − Σ_p ⟨A_p, A⟩ G_p, and so A. (The LLM Surgeon, section 3.2; Van Loan and Pitsianis 1993.)
//
// A layer that no gradient or no input reaches has a product of zeros. Beside the passes of the model, a half step takes
// 2·C² + R² FLOP for each token and layer, or 2·R² + C²; in a later product the second of the two counts twice.

// power finds all products of all layers, one after the other, and returns the losses.
func (c *collection) power(warm bool) (losses []float64, err error) {
	for k := range c.options.products() {
		for i := range c.layers {
			if t := c.term(i, k); !warm || c.normalise(t.A) == 0 {
				c.allOnes(t.A)
			}
		}
		sigma := make([]float64, len(c.layers))
		for step := range c.options.PowerSteps {
			weigh := k == 0 && step >= c.options.PowerSteps-2
			l, err := c.halfStep(k, step%2 == 0, sigma, weigh)
			if err != nil {
				return nil, err
			}
			if losses == nil {
				losses = l
			}
		}
		for i := range c.layers {
			c.finish(c.term(i, k), sigma[i])
		}
	}
	return losses, nil
}

// term is the k-th product of a layer.
func (c *collection) term(layer, k int) Term {
	if k > 0 {
		return c.factors.rest[layer][k-1]
	}
	a, g := c.factors.Of(layer)
	return Term{a, g}
}

// halfStep makes the G, or the A, of the k-th product of every layer from the other one, and normalises it; norms gets what it
// was divided by. weigh says that the weights of the tokens are what EffectiveTokens tells of.
func (c *collection) halfStep(k int, makesG bool, norms []float64, weigh bool) ([]float64, error) {
	h := &halfStep{watch: c.watch(), c: c, makesG: makesG, signed: k > 0}
	if weigh {
		h.weighed = slices.Repeat([]kish{{draws: c.options.draws()}}, len(c.layers))
	}
	_, h.share = c.share()
	for i := range c.layers {
		t := c.term(i, k)
		h.by, h.sum = append(h.by, t.A), append(h.sum, running{Sym: t.G})
		if !makesG {
			h.by[i], h.sum[i].Sym = t.G, t.A
		}
	}
	losses, err := c.pass(h)
	if err != nil {
		return nil, err
	}
	for i, l := range c.layers {
		for p := range k {
			before := c.term(i, p)
			by, of := before.A, before.G
			if !makesG {
				by, of = of, by
			}
			c.dev.Axpy(-c.inner(by, h.by[i]), of.Packed, h.sum[i].Packed)
		}
		norms[i] = c.normalise(h.sum[i].Sym)
		if err := c.dev.Sync(); err != nil {
			return nil, fmt.Errorf("curvature: block %d, layer %s: %w", l.Block, l.Name, err)
		}
		if math.IsNaN(norms[i]) {
			what := "sum of inputs"
			if makesG {
				what = "sum of output gradients"
			}
			return nil, h.broken(what, l, 0, len(c.windows)-1)
		}
		if weigh {
			effective := &c.factors.effective[i]
			if makesG {
				effective.G = h.weighed[i].size()
			} else {
				effective.A = h.weighed[i].size()
			}
		}
	}
	return losses, nil
}

// kish is the number of equally weighted tokens that tell as much as these weighted ones, (Σw)²/Σw²: their effective sample
// size. (Kish, Survey Sampling, 1965.) A token that is drawn several times counts once, with the sum of its weights.
type kish struct {
	draws        int // of each token
	sum, squares float64

	batch []float64 // weights of a batch's tokens, of the draws so far
	drawn int
}

func (k *kish) add(weights []float64) {
	if k.drawn == 0 {
		k.batch = weights
	} else {
		for t, w := range weights {
			k.batch[t] += w
		}
	}
	if k.drawn++; k.drawn < k.draws {
		return
	}
	for _, w := range k.batch {
		k.sum += w
		k.squares += w * w
	}
	k.drawn = 0
}

func (k kish) size() float64 {
	if k.squares == 0 {
		return 0
	}
	return k.sum * k.sum / k.squares
}

// halfStep is a tap that adds weighted squares to the one factor of every layer, the weights being made by the other one.
type halfStep struct {
	watch
	c      *collection
	makesG bool
	signed bool // weights may be negative: by is not positive semi-definite
	share  float64
	by     []device.Sym
	sum    []running

	weighed []kish // by layer, or nil
}

func (h *halfStep) Input(index int, x device.Tensor) { h.look(h.ofInput(index), x) }

func (h *halfStep) Gradients(indexes []int, gs []device.Tensor) {
	for k, i := range indexes {
		h.look(h.ofGradient(i), gs[k])
	}
}

// look remembers tag where x is not finite.
func (h *halfStep) look(tag int, x device.Tensor) {
	s := h.c.scratch
	w, ones := s.weights.ofRows(x.Rows), s.ones.ofRows(x.Rows)
	h.dev.RowDot(x, x, w)
	h.dev.RowDot(w, ones, s.total)
	h.dev.WatchFinite(tag, device.Sym{N: 1, Packed: s.total})
}

// Pair is sum ← share·Σ_t (u_tᵀ·by·u_t)·v_t v_tᵀ + sum: u the inputs and v the gradients, or the other way round.
func (h *halfStep) Pair(index int, x, g device.Tensor) {
	s, by, sum := h.c.scratch, h.by[index], &h.sum[index]
	from, to, one := x, g, h.layers[index].Bias
	if !h.makesG {
		from, to = g, x
	}
	u := s.vectors(h.dev, from, one && h.makesG)
	square, p, w := s.unpacked(by.N), s.product(u.Rows, u.Cols), s.weights.ofRows(u.Rows)
	h.dev.Extract(by, nil, nil, square)
	h.dev.Gemm(false, false, 1, u, square, 0, p)
	h.dev.RowDot(p, u, w)
	if h.weighed != nil { // waits for the device, and so only where it is asked for
		h.weighed[index].add(device.DownloadSlice[float64](h.dev, w))
	}

	v := s.vectors(h.dev, to, one && !h.makesG)
	y := s.product(v.Rows, v.Cols)
	h.dev.ScaleRoot(1, w, v, y)
	h.dev.Gram(h.share, []device.Tensor{y}, sum.beta(), []device.Sym{sum.Sym})
	if h.signed {
		h.dev.ScaleRoot(-1, w, v, y)
		h.dev.Gram(-h.share, []device.Tensor{y}, sum.beta(), []device.Sym{sum.Sym})
	}
}

// allOnes makes every element of s the same, and its norm 1.
func (c *collection) allOnes(s device.Sym) {
	device.UploadSlice(c.dev, slices.Repeat([]float64{1 / float64(s.N)}, s.Packed.Len()), s.Packed)
}

// inner is ⟨s, t⟩ = Σ_ij s_ij·t_ij, from two triangles.
func (c *collection) inner(s, t device.Sym) float64 {
	c.dev.RowDot(s.Packed, t.Packed, c.scratch.total)
	sum := 2 * device.DownloadSlice[float64](c.dev, c.scratch.total)[0]
	x, y := make([]float64, s.N), make([]float64, s.N)
	c.dev.Diagonal(s, x)
	c.dev.Diagonal(t, y)
	for i := range x {
		sum -= x[i] * y[i]
	}
	return sum
}

// normalise is s ← s/‖s‖, and returns ‖s‖, NaN where that is not finite. A matrix of zeros stays as it is. The elements are first
// brought near 1 by a power of two, for the squares of a small gradient's squares are no float32.
func (c *collection) normalise(s device.Sym) float64 {
	diagonal, largest := make([]float64, s.N), 0.
	c.dev.Diagonal(s, diagonal)
	for _, v := range diagonal {
		largest = math.Max(largest, math.Abs(v)) // NaN if one is NaN
	}
	if largest == 0 {
		return 0
	}
	_, exponent := math.Frexp(largest)
	c.scale(math.Ldexp(1, -exponent), s)
	norm := math.Sqrt(c.inner(s, s))
	if !(norm > 0) || math.IsInf(norm, 0) {
		return math.NaN()
	}
	c.scale(1/norm, s)
	return math.Ldexp(norm, exponent)
}

// scale is s ← α·s: a product without terms, and α times what was there.
func (c *collection) scale(alpha float64, s device.Sym) {
	c.dev.Gemm(false, false, 0, c.scratch.product(1, 0), c.scratch.product(0, s.Packed.Len()), alpha, s.Packed)
}

// finish gives both factors their share of σ, and where both begin with a negative element, the other sign.
func (c *collection) finish(t Term, sigma float64) {
	root := math.Sqrt(sigma)
	first := func(s device.Sym) float64 {
		return device.DownloadSlice[float64](c.dev, s.Packed.Reshape(s.Packed.Len(), 1).Slice(0, 1))[0]
	}
	if first(t.A) < 0 && first(t.G) < 0 {
		root = -root
	}
	c.scale(root, t.A)
	c.scale(root, t.G)
}

var _ model.Pairs = (*halfStep)(nil)
