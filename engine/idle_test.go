package engine

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"surgeon/engine/curvature"
	"surgeon/engine/prune"
)

// What would be caught: an option that is asked for and does nothing, in silence; one that is refused where it does something,
// or asks for its default, or is shared with runs where it does something; a name that is none.
func TestIdleOptions(t *testing.T) {
	element := func(o *Options) { o.Structure = prune.Element }
	share, seed := 0.05, uint64(7)
	set := map[string]func(*Options){ // to what is not the default
		"step-limit": func(o *Options) { o.StepLimit = 0.3 }, "rank-by": func(o *Options) { o.RankBy = prune.ByCostPerWeight }, "cost": func(o *Options) { o.Cost = prune.OBD },
		"group": func(o *Options) { o.Group = 300 }, "tolerance": func(o *Options) { o.Tolerance = share }, "sequential": func(o *Options) { o.Sequential = true },
		"keep-biases": func(o *Options) { o.KeepBiases = true }, "power-steps": func(o *Options) { o.PowerSteps = 4 }, "rank": func(o *Options) { o.Rank = 3 },
		"fisher-samples": func(o *Options) { o.FisherSamples = 2 }, "fisher-seed": func(o *Options) { o.FisherSeed = &seed },
		"damp-a": func(o *Options) { o.DampA = &share }, "damp-g": func(o *Options) { o.DampG = &share }, "damping": func(o *Options) { o.Damping = jointDamping },
	}
	names := map[string]bool{}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Options]()) {
		names[f.Tag.Get("name")] = true
	}
	for _, test := range []struct {
		name       string
		idle, busy func(*Options)
		want       string
	}{
		{"step-limit", element, func(o *Options) {}, "it needs --structure rowcol"},
		{"rank-by", func(o *Options) { o.Structure = prune.Structure{N: 2, M: 4} }, func(o *Options) {}, "it needs --structure rowcol"},
		{"group", func(o *Options) {}, element, "it needs --structure element"},
		{"tolerance", func(o *Options) {}, func(o *Options) { o.Structure, o.Damping = prune.Element, jointDamping }, "it needs --structure element"},
		{"tolerance", func(o *Options) { o.Curvature, o.PowerSteps, o.Rank = curvature.KronSum, 4, 2 }, func(o *Options) {
			o.Curvature, o.PowerSteps, o.Rank, o.Cost = curvature.KronSum, 4, 3, prune.OBD
		}, "--rank 3 or more"},
		{"sequential", func(o *Options) { o.Structure, o.Update = prune.Element, prune.None }, element, "it needs --update joint"},
		{"group", func(o *Options) { o.Structure, o.Damping = prune.Element, jointDamping }, element, "it needs --damping factored"},
		{"sequential", func(o *Options) {
			o.Structure, o.Curvature, o.PowerSteps, o.Rank = prune.Element, curvature.KronSum, 4, 2
		}, element, "kron-sum"},
		{"group", func(o *Options) { o.Structure, o.Curvature = prune.Element, curvature.Activations }, element, "with activations"},
		{"sequential", func(o *Options) { o.Structure, o.Curvature = prune.Element, curvature.Activations }, element, "with activations"},
		{"cost", func(o *Options) { o.Curvature, o.Update = curvature.Identity, prune.None }, func(o *Options) {}, "with identity"},
		{"keep-biases", func(o *Options) {}, element, "it needs --structure element"},
		{"power-steps", func(o *Options) {}, func(o *Options) { o.Curvature = curvature.Nearest }, "nearest or kron-sum"},
		{"rank", func(o *Options) { o.Curvature, o.PowerSteps = curvature.Nearest, 4 }, func(o *Options) { o.Curvature, o.PowerSteps, o.Cost = curvature.KronSum, 4, prune.OBD }, "it needs --curvature kron-sum"},
		{"fisher-samples", func(o *Options) {}, func(o *Options) { o.Fisher = curvature.Sampled }, "it needs --fisher sampled"},
		{"fisher-seed", func(o *Options) {}, func(o *Options) { o.Fisher, o.FisherSamples = curvature.Sampled, 2 }, "it needs --fisher sampled"},
		{"damp-a", func(o *Options) { o.Curvature, o.Update = curvature.Identity, prune.None }, func(o *Options) {}, "identity has no factors"},
		{"damp-a", func(o *Options) { o.Cost, o.Update = prune.OBD, prune.None }, func(o *Options) { o.Cost = prune.OBD }, "nothing is inverted"},
		{"damping", func(o *Options) { o.Cost, o.Update = prune.OBD, prune.None }, func(o *Options) { o.Update = prune.None }, "nothing is inverted"},
		{"damp-g", func(o *Options) { o.Structure = prune.Unit }, func(o *Options) {}, "invert A alone"},
		{"step-limit", func(o *Options) { o.Structure = prune.Unit }, func(o *Options) {}, "it needs --structure rowcol"},
		{"damp-g", func(o *Options) { o.Curvature = curvature.Activations }, func(o *Options) {}, "activations takes none"},
	} {
		if !names[test.name] {
			t.Errorf("--%s is no option", test.name)
		}
		check := func(changes ...func(*Options)) error {
			o := tinyOptions("model", "text", filepath.Join(t.TempDir(), "out"))
			o.Group, o.Tolerance, o.PowerSteps, o.Rank, o.FisherSamples, o.Damping = 0, 0.01, 6, 2, 1, "factored" // the defaults, which "set" has to change
			o.Given = []string{test.name}
			for _, change := range changes {
				change(&o)
			}
			return o.check()
		}
		if err := check(test.idle, set[test.name]); !isRequest(err, "--"+test.name+" would do nothing: it needs ") || !isRequest(err, test.want) {
			t.Errorf("--%s: %v, want %q", test.name, err, test.want)
		}
		if err := check(test.busy, set[test.name]); err != nil {
			t.Errorf("--%s is refused: %v", test.name, err)
		}
		if err := check(test.idle, set[test.name], func(o *Options) { o.Shared = o.Given }); err != nil {
			t.Errorf("--%s, for several runs, is refused: %v", test.name, err)
		}
		if test.name == "fisher-seed" || strings.HasPrefix(test.name, "damp-") { // they have no default
			continue
		}
		if err := check(test.idle); err != nil {
			t.Errorf("--%s, with its default, is refused: %v", test.name, err)
		}
	}
	for _, p := range purposes {
		for _, name := range p.names {
			if !names[name] {
				t.Errorf("--%s is no option", name)
			}
		}
	}
}
