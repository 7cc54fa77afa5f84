// Package lora corrects the weights that a shot has left, by the gradient of the loss, through a change of low rank.
//
// Pruning re-fits the weights by a quadratic model of the loss around where they were. What that leaves at first order is
// taken back in rounds between the shots (The LLM Surgeon, section 3.5; low-rank adaptation, arXiv 2106.09685). For every
// pruned layer with its R×C matrix W as the round finds it, a bias being its last column,
//
//	W_eff = W + M ∘ (B·A)         A r×C, B R×r, M_ij = 1 where W_ij ≠ 0, else 0
//
// and A and B follow the gradient of the loss L, the mean over the next tokens of one calibration window for each step: with g_t
// the gradient of L at the layer's output and a_t its input, a constant 1 last where there is a bias,
//
//	dW = M ∘ Σ_t g_t a_tᵀ,   dB = dW·Aᵀ,   dA = Bᵀ·dW
//
// by Adam. The round begins with A drawn from the standard normal distribution and B zero, so with the model as it is, and
// ends with W_eff in place of W. There is no factor before B·A. The rate falls from epoch to epoch, in equal steps: in epoch e of
// E, counted from 0, it is (1 − e/E) times what was asked for. All this is as published, but for three things: there, only q,
// k, v and o are corrected, biases are not, and M stands for rows and columns alone.
//
// W + M ∘ (B·A) is made anew from W in every step, so that zeros stay zeros exactly, and roundings do not add up. In type
// Acc of the model; a bfloat16 model gets it into its float32 masters, and its rounding into what the passes read. A weight whose
// square is below the smallest number of that type, 1e-22 in float32, stays as it is. A layer without a weight left is left out.
//
// Adam runs on the host in float64: A and B are small, rank·(R+C) numbers for each layer.
package lora

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"surgeon/engine/model"
)

// Options are what a round is asked to do.
type Options struct {
	Rank   int     // r
	Rate   float64 // of Adam, in the first epoch
	Epochs int     // times that every window is gone through
	Seed   uint64  // of the first A
}

// Correct makes a round: a step for each of the chosen windows, by their numbers, in their order, as often as there are epochs.
// progress, if not nil, is called after each with the number of steps done, of len(chosen)·Epochs. It returns the names of the
// layers that were left out. An error, which names the step and the window or the layer, leaves the model as it is in the middle
// of the round; so does a cancelled ctx, which ends the work before the next step.
func Correct(ctx context.Context, m *model.Model, windows [][]int32, chosen []int, o Options, progress func(done int)) (leftOut []string, err error) {
	c, leftOut, err := newCorrections(m, o.Rank)
	defer c.free()
	if err != nil {
		return nil, err
	}
	c.draw(rand.New(rand.NewPCG(o.Seed, 0)))
	adam, done := newAdam(len(c.values)), 0
	for epoch := range o.Epochs {
		rate := o.Rate * (1 - float64(epoch)/float64(o.Epochs))
		for _, window := range chosen {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := c.step(windows[window], adam, rate); err != nil {
				return nil, fmt.Errorf("step %d of %d, calibration window %d: %w", done+1, len(chosen)*o.Epochs, window, err)
			}
			if done++; progress != nil {
				progress(done)
			}
		}
	}
	return leftOut, nil
}

// step follows the gradient of the loss of one window.
func (c *corrections) step(window []int32, adam *adam, rate float64) error {
	_, gradient, err := c.gradient(window)
	var bad *model.NonFiniteLoss
	switch {
	case errors.As(err, &bad):
		return fmt.Errorf("the loss is %v: the model overflows there; a smaller rate may keep it from that", bad.Loss)
	case err != nil:
		return err
	}
	for i, g := range gradient {
		if math.IsNaN(g) || math.IsInf(g, 0) {
			l := c.layerOf(i)
			return fmt.Errorf("block %d, layer %s: the gradient of its correction is %v though the loss is finite", l.Block, l.Name, g)
		}
	}
	adam.step(rate, gradient, c.values)
	return c.merge()
}
