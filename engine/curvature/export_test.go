package curvature

import (
	"context"

	"surgeon/engine/model"
)

// CollectRaw is Collect before terms are made positive semi-definite.
func CollectRaw(m *model.Model, windows [][]int32, batchSize int, o Options) (*Factors, error) {
	c, _, err := collect(context.Background(), m, windows, batchSize, o, nil, nil)
	return c.factors, err
}

// Uniform are the numbers that a batch is sampled by.
func (o Options) Uniform(first int, batch [][]int32) [][]float64 { return o.uniform(first, batch) }
