package model

import (
	"context"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"

	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
)

// Random makes a model of the given shapes with random weights, to measure speed and memory where there are no trained
// ones: matrices are drawn evenly with standard deviation 0.02, gains of norms are 1. Equal seeds give equal models, on any
// number of cores.
func Random(dev device.Device, cfg checkpoint.Config, t device.Type, seed uint64) (*Model, error) {
	return assemble(context.Background(), dev, cfg, &noise{shapes: cfg.Shapes(), seed: seed}, t, true)
}

type noise struct {
	shapes map[string][]int
	seed   uint64
	blocks uint64 // drawn so far
}

func (n *noise) Shape(name string) []int { return n.shapes[name] }

// noiseBlock is the number of weights that are drawn from one generator. The seven billion of a large model would take a core
// half a minute.
const noiseBlock = 1 << 20

func (n *noise) Read(name string, dst []float32) error {
	const width = 0.02 * 3.4641016 // of the interval with that standard deviation, √12
	if len(n.shapes[name]) == 1 && strings.HasSuffix(name, ".weight") {
		for i := range dst { // a gain
			dst[i] = 1
		}
		return nil
	}
	var wg sync.WaitGroup
	cores := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i := 0; i < len(dst); i += noiseBlock {
		block := dst[i:min(i+noiseBlock, len(dst))]
		rng := rand.New(rand.NewPCG(n.seed, n.blocks))
		n.blocks++
		cores <- struct{}{}
		wg.Go(func() {
			for i := range block {
				block[i] = width * (rng.Float32() - 0.5)
			}
			<-cores
		})
	}
	wg.Wait()
	return nil
}
