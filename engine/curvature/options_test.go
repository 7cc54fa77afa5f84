package curvature_test

import (
	"strings"
	"testing"

	"surgeon/engine/curvature"
)

// What would be caught: a word that stands for another kind than it says, or for none; options that are let through and make
// factors that are not what they are called.
func TestOptions(t *testing.T) {
	words := []string{"kfac", "nearest", "kron-sum", "activations", "identity", "diagonal"}
	for i, w := range words {
		var k curvature.Kind
		if err := k.UnmarshalText([]byte(w)); err != nil || int(k) != i || k.String() != w {
			t.Errorf("%q is read as %v, %v", w, k, err)
		}
	}
	for i, w := range []string{"empirical", "sampled"} {
		var f curvature.Fisher
		if err := f.UnmarshalText([]byte(w)); err != nil || int(f) != i || f.String() != w {
			t.Errorf("%q is read as %v, %v", w, f, err)
		}
	}
	k := curvature.Diagonal
	if err := k.UnmarshalText([]byte("KFAC")); err == nil || k != curvature.Diagonal || !strings.Contains(err.Error(), strings.Join(words, ", ")) {
		t.Errorf("KFAC: %v, %v", k, err)
	}
	for _, o := range every {
		if err := o.Check(); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, test := range []struct {
		o    curvature.Options
		said string
	}{
		{curvature.Options{Kind: curvature.Nearest, PowerSteps: 3}, "--power-steps is 3; curvature nearest takes an even number, at least 2: half of them make G and half A"},
		{curvature.Options{Kind: curvature.Nearest}, "--power-steps is 0"},
		{curvature.Options{Kind: curvature.KronSum, PowerSteps: 2, Rank: 2}, "--power-steps is 2; curvature kron-sum takes at least 4"},
		{curvature.Options{Kind: curvature.KronSum, PowerSteps: 6, Rank: 1}, "--rank is 1; curvature kron-sum takes at least 2, the number of products"},
		{curvature.Options{Fisher: curvature.Sampled}, "--fisher-samples is 0; the sampled Fisher takes at least 1 for each token"},
		{curvature.Options{Kind: curvature.Diagonal, Consumers: true}, "curvature diagonal is measured of all layers, not of consumers alone"},
		{curvature.Options{Kind: curvature.Activations, Fisher: curvature.Sampled, Samples: 1}, "curvature activations takes none"},
	} {
		if err := test.o.Check(); err == nil || !strings.Contains(err.Error(), test.said) {
			t.Errorf("%+v: %v, want %q", test.o, err, test.said)
		}
	}
}
