package engine

import (
	"context"
	"fmt"

	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/model"
	"surgeon/engine/prune"
)

// shrinkWeights is shrink for single weights, and for N of every M of them. The costs of all weights together are as large as
// the model, so they are never kept: what they are made of is, and the threshold looks at one layer at a time.
func (t *turn) shrinkWeights(ctx context.Context, factors *curvature.Factors, target float64, o *Outcome) error {
	costs, err := t.weightCosts(ctx, factors, o)
	defer func() {
		for _, c := range costs {
			c.Free(t.dev)
		}
	}()
	if err != nil {
		return err
	}
	selection, err := t.weightThreshold(ctx, costs, target)
	if err != nil {
		return err
	}
	o.Threshold, o.Total = selection.Threshold, selection.Total
	return t.weightUpdate(ctx, factors, costs, selection, o)
}

// weightCosts measures what the costs of single weights are made of.
func (t *turn) weightCosts(ctx context.Context, factors *curvature.Factors, o *Outcome) ([]prune.ElementCosts, error) {
	defer t.time("costs")()
	var all []prune.ElementCosts
	err := t.eachGroup(ctx, "costs", factors, t.groups(), func(_ int, group []prune.Layer) error {
		alive, err := prune.Alive(t.dev, group)
		if err != nil {
			return err
		}
		costs, raised, err := prune.CostElements(t.dev, group, alive, t.options.Cost, t.damping())
		all, o.Raised = append(all, costs...), append(o.Raised, raised...)
		return err
	})
	return all, err
}

// weightThreshold selects what goes.
func (t *turn) weightThreshold(ctx context.Context, costs []prune.ElementCosts, target float64) (prune.WeightSelection, error) {
	defer t.time("threshold")()
	t.stage("threshold", 0)
	w := singleWeights(t.options.Structure, t.model.Linears())
	w.KeepBiases = t.options.KeepBiases
	w.Costs = func(i int) (device.Tensor, error) {
		if err := ctx.Err(); err != nil {
			return device.Tensor{}, err
		}
		m := t.model.Linears()[i].Matrix(device.F64)
		defer t.dev.Free(m)
		return costs[i].Of(t.dev, m), nil
	}
	s, err := prune.SelectWeights(t.dev, w, t.options.Scope, target)
	if err != nil {
		return s, fmt.Errorf("threshold: %w", err)
	}
	return s, nil
}

func (o *Options) grouping() prune.Grouping {
	return prune.Grouping{Limit: o.Group, Sequential: o.Sequential, Tolerance: o.Tolerance}
}

// weightUpdate removes and re-fits, layer by layer. What is dead in a layer goes too.
func (t *turn) weightUpdate(ctx context.Context, factors *curvature.Factors, costs []prune.ElementCosts, s prune.WeightSelection, o *Outcome) error {
	if err := t.settled(); err != nil {
		return err
	}
	defer t.time("update")()
	var predicted float64
	o.Predicted = &predicted
	return t.eachGroup(ctx, "update", factors, t.oneByOne(), func(i int, group []prune.Layer) error {
		l := group[0]
		gone, err := s.Gone(t.dev, i)
		if err != nil {
			return err
		}
		markZeros(t.dev, l.W, gone) // not the cheapest of its row, or in a block that stays: it must not come back
		result, err := prune.ApplyElements(t.dev, l, costs[i].Alive, gone, t.options.Update, t.damping(), t.options.grouping())
		if err != nil {
			return err
		}
		t.model.Linears()[i].SetMatrix(result.W)
		t.dev.Free(result.W)
		predicted += result.Predicted
		o.Removed += result.Removed
		o.Raised = append(o.Raised, result.Raised...)
		o.count(result.Iterations, len(t.model.Linears()))
		return nil
	})
}

// singleWeights are the layers as a selection of single weights sees them, without their costs.
func singleWeights(s prune.Structure, layers []*model.Linear) prune.Weights {
	w := prune.Weights{Structure: s}
	for _, l := range layers {
		w.Layers = append(w.Layers, prune.WeightsOf{Name: l.Name, Rows: l.Rows, Cols: l.Inputs(), Bias: l.Bias})
	}
	return w
}
