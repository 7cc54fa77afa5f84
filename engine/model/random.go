package model

import (
	"math/rand/v2"
	"strings"

	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
)

// Random makes a model of the given shapes with random weights, to measure speed and memory where there are no trained
// ones: matrices are drawn evenly with standard deviation 0.02, gains of norms are 1. Equal seeds give equal models.
func Random(dev device.Device, cfg checkpoint.Config, t device.Type, seed uint64) (*Model, error) {
	return assemble(dev, cfg, &noise{shapes: cfg.Shapes(), rng: rand.New(rand.NewPCG(seed, 0))}, t)
}

type noise struct {
	shapes map[string][]int
	rng    *rand.Rand
}

func (n *noise) Shape(name string) []int { return n.shapes[name] }

func (n *noise) Read(name string, dst []float32) error {
	const width = 0.02 * 3.4641016 // of the interval with that standard deviation, √12
	isGain := len(n.shapes[name]) == 1 && strings.HasSuffix(name, ".weight")
	for i := range dst {
		if isGain {
			dst[i] = 1
		} else {
			dst[i] = width * (n.rng.Float32() - 0.5)
		}
	}
	return nil
}
