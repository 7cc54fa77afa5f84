package engine

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"surgeon/engine/curvature"
	"surgeon/engine/prune"
)

// What would be caught: layers that are side by side where there is no room for them, or where nothing is gained, or never.
func TestLayerGroups(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	cfg := configOf(t, dir)
	blocks, layers := []int{7, 7}, slices.Repeat([]int{1}, 14)
	for name, test := range map[string]struct {
		change func(*Options)
		want   []int
	}{
		"room for a block":       {func(o *Options) {}, blocks},
		"single weights":         {func(o *Options) { o.Structure = prune.Element }, blocks},
		"main memory":            {func(o *Options) { o.deviceApart = false }, layers},
		"short windows":          {func(o *Options) { o.Batch, o.Length = 1, 4 }, layers},
		"no curvature":           {func(o *Options) { o.Curvature = curvature.Identity }, layers},
		"a sum of products":      {func(o *Options) { o.Curvature, o.Rank = curvature.KronSum, 2 }, layers},
		"damping of the product": {func(o *Options) { o.Damping = jointDamping }, layers},
		"costs as large as these": {func(o *Options) {
			o.Structure, o.Curvature, o.Batch, o.Length = prune.Element, curvature.Diagonal, 2, 32
		}, layers},
	} {
		o := tinyOptions(dir, text, "out")
		o.deviceApart, o.Batch, o.Samples = true, 16, 16
		test.change(&o)
		o.fill()
		if got := layerGroups(cfg, o); !slices.Equal(got, test.want) {
			t.Errorf("%s: groups of %v layers, want %v", name, got, test.want)
		}
	}
}

// What would be caught: a run whose layers are worked on side by side and ends in other bits, or takes more memory than one that
// goes layer by layer and was planned; a failure without the layers it may be of.
func TestRunSideBySide(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	for name, structure := range map[string]prune.Structure{"rows and columns": prune.RowCol, "single weights": prune.Element} {
		t.Run(name, func(t *testing.T) {
			o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "one by one"))
			o.Batch, o.Structure = 12, structure
			if _, err := Prune(context.Background(), openSeparate(t, 1<<40).Device, o, &silent{}); err != nil {
				t.Fatal(err)
			}
			want := weightsOf(t, o.Output)
			o.Output, o.Work = filepath.Join(t.TempDir(), "side by side"), ""
			d := openSeparate(t, 1<<40)
			steps := map[string][]int{}
			var stage string
			w := &silent{onStage: func(name string) { stage = name }, onStep: func(done int) { steps[stage] = append(steps[stage], done) }}
			r, err := Prune(context.Background(), d, o, w)
			if err != nil {
				t.Fatal(err)
			}
			if got := steps["shot 2 of 4: costs"]; !slices.Equal(got, []int{7, 14}) {
				t.Fatalf("costs came in steps %v, want a step for a block: the test tests nothing", got)
			}
			if !slices.ContainsFunc(w.said, func(s string) bool { return strings.Contains(s, "--precision bfloat16") }) {
				t.Errorf("nobody is told of bfloat16: %q", w.said)
			}
			if !bytes.Equal(weightsOf(t, o.Output), want) {
				t.Error("the run ends in other bits than layer by layer")
			}
			if float64(d.peak) > 1.02*float64(r.PlannedDeviceBytes) {
				t.Errorf("planned %d bytes, taken %d", r.PlannedDeviceBytes, d.peak)
			}

			lost := errors.New("Cholesky: error 719, the device is lost")
			failing := &failing{Device: openSeparate(t, 1<<40)}
			o.Output, o.Work = filepath.Join(t.TempDir(), "failing"), ""
			w = &silent{onStage: func(name string) {
				if name == "shot 1 of 4: costs" {
					failing.failure = lost
				}
			}}
			if _, err := Prune(context.Background(), failing, o, w); !errors.Is(err, lost) ||
				!strings.Contains(err.Error(), "shot 1: costs: block 0, layers model.layers.0.self_attn.q_proj to model.layers.0.mlp.down_proj: ") {
				t.Errorf("got %v", err)
			}
		})
	}
}
