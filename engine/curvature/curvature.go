// Package curvature measures the curvature of the loss on a device, layer by layer, as Kronecker products.
//
// For a linear layer y = x·Wᵀ (+ b) with input vector a (C values, a constant 1 appended where there is a bias) and
// gradient g (R values) of the summed loss of a sequence at the output, the layer's Fisher block for the row-major vec(W) is,
// over N calibration tokens,
//
//	F = (1/N) Σ_t (g_t ⊗ a_t)(g_t ⊗ a_t)ᵀ = (1/N) Σ_t g_t g_tᵀ ⊗ a_t a_tᵀ        R·C × R·C
//
// It never exists. What is measured in its place (Kind):
//
//	kfac         G ⊗ A,  A = (1/N) Σ_t a_t a_tᵀ  C×C,  G = (1/N) Σ_t g_t g_tᵀ  R×R: inputs and gradients taken for independent
//	             (method.md section 1; The LLM Surgeon, section 3.1)
//	nearest      the G ⊗ A nearest to F in the Frobenius norm, by the power method (section 3.2 there)
//	kron-sum     Σ_k G_k ⊗ A_k, each term nearest to what those before leave of F
//	activations  I ⊗ A: no backward pass
//	identity     I ⊗ I: no pass at all
//	diagonal     kfac, and D_rc = (1/N) Σ_t g_r² a_c², the diagonal of F as it is
//
// All are plain sums over tokens: the way sequences are put into batches changes nothing but the rounding. Where A does not
// depend on g, layers that read the same input share one. Only lower triangles are made and kept, in float32 (float64 for a
// float64 model).
//
// # Which gradients
//
// The empirical Fisher takes the gradients of the true next tokens. The sampled one takes k tokens drawn from the model's
// softmax for each, in k backward passes, and averages after squaring: (1/(N·k)) Σ_k Σ_t, so that what is expected does not
// depend on k. Squaring the sum of the k gradients, or leaving out the k, would make it k times as large.
package curvature

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"surgeon/engine/device"
	"surgeon/engine/model"
)

// Collect measures the curvature over all windows, batchSize of them at a time, and returns it with the mean loss of each
// window in nats, of the true next tokens; no losses where nothing is run. progress, if not nil, is called after each batch
// with the number of windows done, of o.Passes() times all of them. A cancelled ctx ends the work before the next batch. The
// caller frees the factors.
//
// warm, where o.Warm, is what the last measurement with these options left, or nil. It is taken over, and freed in an error.
func Collect(ctx context.Context, m *model.Model, windows [][]int32, batchSize int, o Options, warm *Factors, progress func(done int)) (*Factors, []float64, error) {
	c, losses, err := collect(ctx, m, windows, batchSize, o, warm, progress)
	if err == nil && !o.Unprojected {
		err = c.project()
	}
	if err == nil {
		if err = m.Device().Sync(); err != nil {
			err = fmt.Errorf("curvature: %w", err)
		}
	}
	if err != nil {
		c.factors.Free()
		return nil, nil, err
	}
	return c.factors, losses, nil
}

// collection is a measurement that is going on.
type collection struct {
	ctx       context.Context
	m         *model.Model
	dev       device.Device
	layers    []*model.Linear
	windows   [][]int32
	batchSize int
	options   Options
	progress  func(done int)
	done      int // windows, of all passes
	factors   *Factors
	scratch   *scratch
}

// collect is Collect, before terms are made positive semi-definite; factors are there in an error too.
func collect(ctx context.Context, m *model.Model, windows [][]int32, batchSize int, o Options, warm *Factors, progress func(done int)) (c *collection, losses []float64, err error) {
	c = &collection{ctx: ctx, m: m, dev: m.Device(), layers: m.Linears(), windows: windows, batchSize: batchSize, options: o, progress: progress}
	c.factors = newFactors(c.dev, c.layers, m.Type, o, warm)
	for _, w := range windows {
		c.factors.Tokens += len(w)
	}
	if err := o.Check(); err != nil {
		return c, nil, err
	}
	c.scratch = newScratch(c.dev, c.layers, m.Type, o, c.largestBatch())
	defer func() { c.scratch.free(c.dev) }()
	switch o.Kind {
	case Identity:
	case Nearest, KronSum:
		losses, err = c.power(warm != nil)
	case Diagonal:
		losses, err = c.pass(&diagonalSums{c.sums(), make([]bool, len(c.layers))})
	default:
		sums := c.sums()
		losses, err = c.pass(&sums)
	}
	return c, losses, err
}

// largestBatch is the most tokens of a batch.
func (c *collection) largestBatch() (tokens int) {
	for first := 0; first < len(c.windows); first += c.batchSize {
		n := 0
		for _, w := range c.windows[first:min(first+c.batchSize, len(c.windows))] {
			n += len(w)
		}
		tokens = max(tokens, n)
	}
	return tokens
}

// share is what a token counts in a sum over inputs, and over gradients: 1/N, and 1/(N·k).
func (c *collection) share() (ofInput, ofGradient float64) {
	return 1 / float64(c.factors.Tokens), 1 / float64(c.factors.Tokens*c.options.draws())
}

// pass runs all windows through the model.
func (c *collection) pass(tap watchingTap) (losses []float64, err error) {
	for first := 0; first < len(c.windows); first += c.batchSize {
		if err := c.ctx.Err(); err != nil {
			return nil, err
		}
		batch := c.windows[first:min(first+c.batchSize, len(c.windows))]
		last := first + len(batch) - 1
		l, err := c.run(first, batch, tap)
		if broken := tap.nonFinite(first, last); broken != nil {
			return nil, broken
		}
		if err != nil {
			var bad *model.NonFiniteLoss
			if errors.As(err, &bad) {
				return nil, fmt.Errorf("calibration window %d: the loss is %v though all inputs and gradients are finite", first+bad.Sequence, bad.Loss)
			}
			return nil, fmt.Errorf("curvature: %s: %w", between(first, last), err)
		}
		losses = append(losses, l...)
		if c.done += len(batch); c.progress != nil {
			c.progress(c.done)
		}
	}
	return losses, nil
}

// run takes a batch, whose first window is number first, through the passes that the options ask for.
func (c *collection) run(first int, batch [][]int32, tap model.Tap) ([]float64, error) {
	switch {
	case !c.options.gradients():
		return c.m.Forward(batch, tap)
	case c.options.Fisher == Sampled:
		return c.m.ForwardSampled(batch, c.options.uniform(first, batch), tap)
	}
	return c.m.ForwardBackward(batch, tap)
}

// drawStream keeps the generators of draws apart from the one that windows are drawn with, whose seed is the same where no
// --fisher-seed is given.
const drawStream = 1 << 62

// uniform draws the numbers for each sample of a batch. A sample of a window has a generator of its own, so that it does not
// matter how windows are put into batches, nor how many samples there are.
func (o Options) uniform(first int, batch [][]int32) [][]float64 {
	all := make([][]float64, o.Samples)
	for k := range all {
		for i, ids := range batch {
			rng := rand.New(rand.NewPCG(o.Seed, drawStream|uint64(first+i)<<32|uint64(k)))
			for range ids {
				all[k] = append(all[k], rng.Float64())
			}
		}
	}
	return all
}
