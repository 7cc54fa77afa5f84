package engine

import (
	"context"
	"fmt"
	"math"
	"slices"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/prune"
)

// shrinkUnits is shrink for coupled units: only the consumers' columns cost anything and only consumers are re-fitted, so only
// they are measured; their producers lose rows that nothing reads any more.
func (t *turn) shrinkUnits(ctx context.Context, factors *curvature.Factors, target float64, o *Outcome) error {
	couplings := prune.Couplings(t.model.Config, t.model.Config.Linears())
	alive, costs, err := t.unitCosts(ctx, factors, couplings, o)
	if err != nil {
		return err
	}
	done := t.time("threshold")
	selection, err := prune.SelectUnits(couplings, costs, alive, target)
	done()
	if err != nil {
		return fmt.Errorf("threshold: %w", err)
	}
	if selection.Threshold >= 0 {
		o.Threshold = &selection.Threshold
	}
	o.Removed, o.Total, o.Kept = selection.Removed, selection.Total, selection.Kept
	return t.unitUpdate(ctx, factors, alive, selection, o)
}

// unitCosts are the costs of the units of each coupling, and what is alive of each layer.
func (t *turn) unitCosts(ctx context.Context, factors *curvature.Factors, couplings []prune.Coupling, o *Outcome) (alive []prune.Kept, costs [][]float64, err error) {
	defer t.time("costs")()
	of := map[int]int{} // a coupling by its consumer's place
	for k, c := range couplings {
		of[c.Consumer().Layer] = k
	}
	costs = make([][]float64, len(couplings))
	err = t.eachGroup(ctx, "costs", factors, t.oneByOne(), func(i int, group []prune.Layer) error {
		a, err := prune.Alive(t.dev, group)
		if err != nil {
			return err
		}
		alive = append(alive, a[0])
		k, consumer := of[i]
		if !consumer {
			return nil
		}
		var raised []prune.Raised
		costs[k], raised, err = prune.CostUnits(t.dev, group[0], a[0], couplings[k], t.options.Cost, t.damping())
		o.Raised = append(o.Raised, raised...)
		return err
	})
	return alive, costs, err
}

// unitUpdate re-fits consumers and takes rows from producers. What it costs is predicted by the consumers alone: without a
// unit's columns its rows have no effect.
func (t *turn) unitUpdate(ctx context.Context, factors *curvature.Factors, alive []prune.Kept, s prune.Selection, o *Outcome) error {
	if err := t.settled(); err != nil {
		return err
	}
	defer t.time("update")()
	var predicted float64
	o.Predicted = &predicted
	return t.eachGroup(ctx, "update", factors, t.oneByOne(), func(i int, group []prune.Layer) error {
		linear, kept := t.model.Linears()[i], s.Kept[i:i+1]
		if !linear.Consumer() {
			if slices.Equal(alive[i].Rows, kept[0].Rows) { // nothing goes, and what is dead of it is 0: by its weights alone it is told
				return nil
			}
			w := prune.Restrict(t.dev, group[0].W, kept[0])
			linear.SetMatrix(w)
			t.dev.Free(w)
			return nil
		}
		results, err := prune.Apply(t.dev, group, alive[i:i+1], kept, t.options.Update, t.damping(), t.options.Tolerance)
		for _, r := range results {
			linear.SetMatrix(r.W)
			t.dev.Free(r.W)
			predicted += r.Predicted
			o.Raised = append(o.Raised, r.Raised...)
		}
		return err
	})
}

// mostUnits is the largest share of the weights that can go by units, of a model of which nothing is dead.
func mostUnits(c checkpoint.Config) float64 {
	layers, couplings := linears(c), prune.Couplings(c, c.Linears())
	costs, alive := make([][]float64, len(couplings)), make([]prune.Kept, len(layers))
	for k, c := range couplings {
		costs[k] = make([]float64, c.Units)
	}
	for i, l := range layers {
		alive[i] = keptAfterShot(l.Rows, l.Inputs(), 0, 0)
	}
	s, err := prune.SelectUnits(couplings, costs, alive, math.Nextafter(1, 0))
	if err != nil {
		panic(err) // neither the costs nor the target are anyone's
	}
	return float64(s.Removed) / float64(s.Total)
}
