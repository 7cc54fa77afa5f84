package engine

import (
	"path/filepath"
	"reflect"
	"testing"

	"surgeon/engine/curvature"
	"surgeon/engine/prune"
)

// What would be caught: an option that is asked for and does nothing, in silence; one that is refused where it does something;
// a name that is none.
func TestIdleOptions(t *testing.T) {
	element := func(o *Options) { o.Structure = prune.Element }
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
		{"sequential", func(o *Options) { o.Structure, o.Update = prune.Element, prune.None }, element, "it needs --update joint"},
		{"group", func(o *Options) { o.Structure, o.Damping = prune.Element, jointDamping }, element, "it needs --damping factored"},
		{"sequential", func(o *Options) {
			o.Structure, o.Curvature, o.PowerSteps, o.Rank = prune.Element, curvature.KronSum, 4, 2
		}, element, "kron-sum"},
		{"keep-biases", func(o *Options) {}, element, "it needs --structure element"},
		{"power-steps", func(o *Options) { o.PowerSteps = 4 }, func(o *Options) { o.Curvature, o.PowerSteps = curvature.Nearest, 4 }, "nearest or kron-sum"},
		{"rank", func(o *Options) { o.Curvature, o.PowerSteps, o.Rank = curvature.Nearest, 4, 2 }, func(o *Options) { o.Curvature, o.PowerSteps, o.Rank = curvature.KronSum, 4, 2 }, "it needs --curvature kron-sum"},
		{"fisher-samples", func(o *Options) { o.FisherSamples = 2 }, func(o *Options) { o.Fisher, o.FisherSamples = curvature.Sampled, 2 }, "it needs --fisher sampled"},
		{"fisher-seed", func(o *Options) {}, func(o *Options) { o.Fisher, o.FisherSamples = curvature.Sampled, 2 }, "it needs --fisher sampled"},
		{"damp-a", func(o *Options) { o.Curvature, o.Update = curvature.Identity, prune.None }, func(o *Options) {}, "identity has no factors"},
		{"damp-g", func(o *Options) { o.Curvature = curvature.Activations }, func(o *Options) {}, "activations takes none"},
	} {
		if !names[test.name] {
			t.Errorf("--%s is no option", test.name)
		}
		check := func(change func(*Options)) error {
			o := tinyOptions("model", "text", filepath.Join(t.TempDir(), "out"))
			o.Given = []string{test.name}
			change(&o)
			return o.check()
		}
		if err := check(test.idle); !isRequest(err, "--"+test.name+" would do nothing: it needs ") || !isRequest(err, test.want) {
			t.Errorf("--%s: %v, want %q", test.name, err, test.want)
		}
		if err := check(test.busy); err != nil {
			t.Errorf("--%s is refused: %v", test.name, err)
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
