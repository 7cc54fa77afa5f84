package lora

import "math"

// The constants of Adam as they were proposed (arXiv 1412.6980), and as the published code leaves them.
const (
	firstDecay  = 0.9
	secondDecay = 0.999
	epsilon     = 1e-8
)

// adam holds running means of gradients and of their squares, for the t-th step
//
//	m ← β₁·m + (1−β₁)·g,  v ← β₂·v + (1−β₂)·g²,  x ← x − rate · m/(1−β₁ᵗ) / (√(v/(1−β₂ᵗ)) + ε)
//
// A number that never had a gradient stays as it is.
type adam struct {
	first, second []float64
	t             int
}

func newAdam(n int) *adam { return &adam{first: make([]float64, n), second: make([]float64, n)} }

func (a *adam) step(rate float64, gradient, x []float64) {
	a.t++
	m, v := 1-math.Pow(firstDecay, float64(a.t)), 1-math.Pow(secondDecay, float64(a.t))
	for i, g := range gradient {
		a.first[i] = firstDecay*a.first[i] + (1-firstDecay)*g
		a.second[i] = secondDecay*a.second[i] + (1-secondDecay)*g*g
		x[i] -= rate * (a.first[i] / m) / (math.Sqrt(a.second[i]/v) + epsilon)
	}
}
