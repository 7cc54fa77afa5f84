package engine

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"surgeon/engine/curvature"
	"surgeon/engine/prune"
)

// The structures and curvatures that are run with one another.
var (
	structures = []prune.Structure{prune.RowCol, prune.Element, {N: 2, M: 4}}
	curvatures = []struct {
		name   string
		change func(*Options)
	}{
		{"nearest", func(o *Options) { o.Curvature = curvature.Nearest }},
		{"kron-sum", func(o *Options) { o.Curvature, o.Rank, o.PowerSteps = curvature.KronSum, 2, 4 }},
		{"kron-sum of 3 by OBD", func(o *Options) { o.Curvature, o.Rank, o.Cost, o.PowerSteps = curvature.KronSum, 3, prune.OBD, 4 }},
		{"activations", func(o *Options) { o.Curvature = curvature.Activations }},
		{"identity", func(o *Options) { o.Curvature, o.Update = curvature.Identity, prune.None }},
		{"diagonal", func(o *Options) { o.Curvature = curvature.Diagonal }},
		{"kfac, damped jointly", func(o *Options) { o.Damping = jointDamping }},
		{"nearest, damped jointly", func(o *Options) { o.Curvature, o.Damping = curvature.Nearest, jointDamping }},
		{"kfac of the sampled Fisher", func(o *Options) { o.Fisher, o.FisherSamples = curvature.Sampled, 2 }},
	}
)

// What would be caught: a structure and a curvature that do not go together and are not refused, a target that is missed, a
// prediction in other units than the loss, a run that does not go on bit for bit, the start of the power method included.
func TestCurvatureRuns(t *testing.T) {
	dir, text := tiny(t, "tiny-opt")
	for i, s := range structures {
		for k, c := range curvatures {
			t.Run(s.String()+" "+c.name, func(t *testing.T) {
				if testing.Short() && (i+k)%3 > 0 {
					t.Skip("-short: two of three of these runs are left out")
				}
				o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "whole"))
				o.Structure, o.Shots, o.Target, o.Group, o.PowerSteps = s, 2, 0.3, 300, 2
				c.change(&o)
				w := &silent{}
				r, err := pruneTiny(t, context.Background(), o, w)
				if o.Curvature == curvature.Diagonal && s == prune.RowCol {
					if !isRequest(err, "--curvature diagonal") {
						t.Fatalf("not refused: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if told := strings.Count(strings.Join(append(w.said, w.warnings...), "\n"), "the power method weighs tokens unequally: of 384, "); told != map[bool]int{true: o.Shots}[o.Curvature == curvature.Nearest || o.Curvature == curvature.KronSum] {
					t.Errorf("on how few tokens a product rests was told %d times in %d shots: %q, %q", told, o.Shots, w.said, w.warnings)
				}
				if s == prune.RowCol {
					checkFiles(t, o.Output, r)
				} else {
					checkTarget(t, o, r)
					checkZeros(t, o, r)
				}
				for _, shot := range r.Shots {
					if (shot.PredictedIncrease != nil) != o.predicts() {
						t.Errorf("shot %d predicts %v", shot.Number, shot.PredictedIncrease)
					}
				}
				checkResumes(t, o, 1)
			})
		}
	}
}

func isRequest(err error, words string) bool {
	var request *RequestError
	return errors.As(err, &request) && strings.Contains(err.Error(), words)
}

// What would be caught: curvatures, and options about them, that make no sense and are not refused.
func TestCurvatureRequests(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	for _, test := range []struct {
		name, want string
		change     func(*Options)
	}{
		{"odd power steps", "--power-steps is 3", func(o *Options) { o.Curvature, o.PowerSteps = curvature.Nearest, 3 }},
		{"no power steps", "--power-steps is 0", func(o *Options) { o.Curvature = curvature.Nearest }},
		{"sum of one", "--rank is 1", func(o *Options) { o.Curvature, o.PowerSteps, o.Rank = curvature.KronSum, 4, 1 }},
		{"sum of three by OBS", "--rank 3 with --cost obs", func(o *Options) { o.Curvature, o.PowerSteps, o.Rank = curvature.KronSum, 2, 3 }},
		{"sum, damped jointly", "--damping joint with --curvature kron-sum", func(o *Options) {
			o.Curvature, o.PowerSteps, o.Rank, o.Damping = curvature.KronSum, 2, 2, jointDamping
		}},
		{"activations, damped jointly", "--damping joint is for curvatures of two factors", func(o *Options) { o.Curvature, o.Damping = curvature.Activations, jointDamping }},
		{"identity with an update", "--update none", func(o *Options) { o.Curvature = curvature.Identity }},
		{"no tokens drawn", "--fisher-samples is 0", func(o *Options) { o.Fisher = curvature.Sampled }},
		{"tokens drawn for nothing", "takes none", func(o *Options) { o.Curvature, o.Fisher, o.FisherSamples = curvature.Activations, curvature.Sampled, 1 }},
		{"groups in a sum", "--sequential would do nothing", func(o *Options) {
			o.Structure, o.Sequential, o.Damping, o.Given = prune.Element, true, jointDamping, []string{"sequential"}
		}},
	} {
		o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
		test.change(&o)
		if _, err := pruneTiny(t, context.Background(), o, &silent{}); !isRequest(err, test.want) {
			t.Errorf("%s: error %v, want a RequestError with %q", test.name, err, test.want)
		}
	}
}

// What would be caught: a sampled Fisher whose seed is not told, or that is another one after a stop.
func TestFisherSeedIsTold(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	o.Target, o.Shots, o.Fisher, o.FisherSamples = 0.3, 1, curvature.Sampled, 1
	w := &silent{}
	r, err := pruneTiny(t, context.Background(), o, w)
	if err != nil {
		t.Fatal(err)
	}
	if r.Seeds["fisher"] != o.Seed || !strings.Contains(strings.Join(w.said, "\n"), "seed 100") {
		t.Errorf("seeds %v, said %q", r.Seeds, w.said)
	}
	o.Output, o.FisherSeed = filepath.Join(t.TempDir(), "out"), new(uint64(5))
	if r, err = pruneTiny(t, context.Background(), o, w); err != nil || r.Seeds["fisher"] != 5 {
		t.Errorf("seeds %v, %v", r.Seeds, err)
	}
}

// What would be caught: a preset that is not the method of its name, that goes against what was asked for, or that does not
// leave alone what it has no say in.
func TestPresets(t *testing.T) {
	with := func(preset string, change func(*Options), given ...string) (Options, error) {
		o := tinyOptions("model", "text", "out")
		o.Target, o.Group, o.PowerSteps, o.Preset, o.Given = 0.3, 2000, 6, preset, given
		if change != nil {
			change(&o)
		}
		err := o.check()
		return o, err
	}
	for _, p := range Presets {
		o, err := with(p.Name, nil)
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		if o.Target != 0.3 && !o.Structure.Blocks() || o.Samples != 12 {
			t.Errorf("%s changes the target to %v, samples to %d", p.Name, o.Target, o.Samples)
		}
	}
	if o, _ := with("wanda", nil); o.Structure != prune.Element || o.Scope != prune.InRow || o.Curvature != curvature.Activations || o.Cost != prune.OBD || o.Update != prune.None || o.Shots != 1 {
		t.Errorf("wanda is %+v", o)
	}
	if o, _ := with("wanda", func(o *Options) { o.Structure = prune.Structure{N: 2, M: 4} }, "structure"); !o.Structure.Blocks() || o.Scope != prune.InModel {
		t.Errorf("wanda 2:4 is %+v", o)
	}
	if o, _ := with("paper-unstructured", func(o *Options) { o.Shots = 3 }, "shots"); o.Shots != 3 || *o.DampG != 0.1 {
		t.Errorf("paper-unstructured with 3 shots is %+v", o)
	}
	if o, _ := with("k-obd", nil); o.Shots != 40 || o.Structure != prune.RowCol {
		t.Errorf("k-obd of rows and columns is %+v", o)
	}
	for _, test := range []struct {
		preset, given, want string
		change              func(*Options)
	}{
		{"sparsegpt", "curvature", "--preset sparsegpt stands for --curvature activations; --curvature kfac contradicts it", nil},
		{"wanda", "structure", "--preset wanda stands for --structure element; --structure rowcol contradicts it", nil},
		{"sparsegpt", "structure", "--preset sparsegpt stands for --structure element; --structure unit contradicts it", func(o *Options) { o.Structure = prune.Unit }},
		{"wanda", "structure", "--preset wanda stands for --structure element; --structure unit contradicts it", func(o *Options) { o.Structure = prune.Unit }},
		{"magnitude", "update", "--preset magnitude stands for --update none; --update joint contradicts it", nil},
		{"optimal", "", "--preset optimal is none of paper-structured, paper-unstructured", nil},
	} {
		if _, err := with(test.preset, test.change, test.given); !isRequest(err, test.want) {
			t.Errorf("--preset %s with --%s: %v, want %q", test.preset, test.given, err, test.want)
		}
	}
}
