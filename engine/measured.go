package engine

import (
	"fmt"
	"slices"

	"surgeon/engine/curvature"
	"surgeon/engine/prune"
)

// What a measurement tells of itself.

// sayCut tells what was taken from terms of sums to make them positive semi-definite.
func (t *turn) sayCut(factors *curvature.Factors) {
	var most float64
	var at string
	n := 0
	for i, l := range t.model.Linears() {
		for _, cut := range factors.Cut(i) {
			if cut > 0 {
				n++
			}
			if cut > most {
				most, at = cut, l.Name
			}
		}
	}
	if n > 0 {
		t.watcher.Say(fmt.Sprintf("%d further products were made positive semi-definite; the most that took is %.2g of the product, in layer %s", n, most, at))
	}
}

// fewTokens tells on how few tokens nearest products rest: a warning where that are fewer than a factor has rows, in layers
// that gradients reach, or "".
func (t *turn) fewTokens(factors *curvature.Factors) (warning string, err error) {
	if !t.options.curvature().Warm() {
		return "", nil
	}
	var a, g effective
	few := 0
	for i, l := range t.model.Linears() {
		e := factors.EffectiveTokens(i)
		if e.A == 0 || e.G == 0 {
			continue
		}
		layer := t.layer(factors, i)
		alive, err := prune.Alive(t.dev, []prune.Layer{layer})
		t.dev.Free(layer.W)
		if err := t.failed(err, l); err != nil {
			return "", fmt.Errorf("curvature: %w", err)
		}
		if e.A < float64(count(alive[0].Cols)) || e.G < float64(count(alive[0].Rows)) {
			few++
		}
		a.add(l.Name, e.A)
		g.add(l.Name, e.G)
	}
	if len(a.all) == 0 {
		return "", nil
	}
	told := fmt.Sprintf("the power method weighs tokens unequally: of %d, G rests on %v and A on %v", factors.Tokens, g, a)
	if few == 0 {
		t.watcher.Say(told)
		return "", nil
	}
	return fmt.Sprintf("%s; in %d of %d layers a factor rests on fewer tokens than it has rows, and damping decides about the rest: raise --samples or --length, or take --curvature kfac",
		told, few, len(a.all)), nil
}

// effective are the effective tokens of one side of all layers.
type effective struct {
	all   []float64
	least string // name of the layer with the fewest
}

func (e *effective) add(layer string, tokens float64) {
	if len(e.all) == 0 || tokens < slices.Min(e.all) {
		e.least = layer
	}
	e.all = append(e.all, tokens)
}

func (e effective) String() string {
	sorted := slices.Sorted(slices.Values(e.all))
	return fmt.Sprintf("%.3g in the median layer (fewest: %.3g in %s)", sorted[len(sorted)/2], sorted[0], e.least)
}
