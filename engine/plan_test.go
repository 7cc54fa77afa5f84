package engine

import (
	"context"
	"path/filepath"
	"slices"
	"testing"

	"surgeon/engine/curvature"
	"surgeon/engine/device/cpu"
	"surgeon/engine/prune"
)

// What would be caught: a plan that fails where the run would not, that measures work which was not asked for, or leaves a stage
// out.
func TestPlanOfEveryKind(t *testing.T) {
	dir, text := tiny(t, "tiny-opt")
	seconds := func(change func(*Options)) map[string]float64 {
		o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
		o.PowerSteps, o.Rank, o.FisherSamples = 4, 2, 1
		change(&o)
		dev := cpu.Open()
		defer dev.Close()
		p, err := Plan(context.Background(), dev, o, &silent{})
		if err != nil {
			t.Fatalf("%v %v: %v", o.Structure, o.Curvature, err)
		}
		stages := map[string]float64{}
		for _, s := range p.Stages {
			if stages[s.Name] = s.Seconds; !(s.Seconds > 0) {
				t.Errorf("%v %v: %s takes %v s", o.Structure, o.Curvature, s.Name, s.Seconds)
			}
		}
		return stages
	}
	for _, structure := range []prune.Structure{prune.RowCol, prune.Element, {N: 2, M: 4}} {
		for _, kind := range []curvature.Kind{curvature.KFAC, curvature.Nearest, curvature.KronSum, curvature.Activations, curvature.Identity, curvature.Diagonal} {
			for _, damping := range []string{"factored", jointDamping} {
				if testing.Short() && structure != prune.Element && kind != curvature.KFAC {
					continue // what is measured differs little between structures
				}
				if structure == prune.RowCol && kind == curvature.Diagonal || damping == jointDamping && !slices.Contains([]curvature.Kind{curvature.KFAC, curvature.Nearest}, kind) {
					continue
				}
				stages := seconds(func(o *Options) {
					o.Structure, o.Curvature, o.Damping = structure, kind, damping
					if kind == curvature.Identity {
						o.Update = prune.None
					}
				})
				if _, threshold := stages["threshold"]; threshold != (structure != prune.RowCol) || stages["perplexity"] != 0 {
					t.Errorf("%v %v: the stages are %v", structure, kind, stages)
				}
			}
		}
	}
	if seconds(func(o *Options) { o.Eval = []string{text} })["perplexity"] == 0 {
		t.Error("the evaluation is no stage")
	}
}
