package engine

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/prune"
	"surgeon/engine/report"
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

// What would be caught: a plan that measures with the user's rate, and then blames its own random tokens for what that does to its random
// weights.
func TestPlanOfAHighRate(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := loraOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	o.LoraRate = 1e10
	dev := cpu.Open()
	defer dev.Close()
	if _, err := Plan(context.Background(), dev, o, &silent{}); err != nil {
		t.Error(err)
	}
}

// What would be caught: a plan that reads the model twice where there is nothing to confuse the run with, or once, and then takes
// another run's directories for its own, or its own for another's.
func TestPlanLooksOnce(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	dev := cpu.Open()
	defer dev.Close()
	plan := func(o Options) (looks []string, err error) {
		_, err = Plan(context.Background(), dev, o, &silent{onStage: func(name string) {
			if name == "checksum of the model" || name == "check of the weights" {
				looks = append(looks, name)
			}
		}})
		return looks, err
	}
	if looks, err := plan(o); err != nil || len(looks) != 1 {
		t.Errorf("with nothing in the way: %q, %v", looks, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if _, err := pruneTiny(t, ctx, o, &silent{onShot: func(report.Shot) { cancel() }}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	other, _ := tiny(t, "tiny-opt")
	refused := func(what, want string) {
		t.Helper()
		changed := o
		changed.Model = other
		_, err := plan(changed)
		if _, request := errors.AsType[*RequestError](err); !request || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
		if looks, err := plan(o); err != nil || len(looks) != 2 {
			t.Errorf("%s, the same run: %q, %v", what, looks, err)
		}
	}
	refused("a work directory", "model sha256: ")
	if _, err := pruneTiny(t, context.Background(), o, &silent{}); err != nil {
		t.Fatal(err)
	}
	refused("an output", "is there already")
}

// orders remembers of what order the matrices are that eigenvalues are asked of.
type orders struct {
	device.Device
	seen []int
}

func (o *orders) Eigh(warm bool, a, w, v []device.Tensor) []bool {
	for _, x := range a {
		o.seen = append(o.seen, x.Rows)
	}
	return o.Device.Eigh(warm, a, w, v)
}

// What would be caught: a plan that takes the eigenvalues of whole layers, minutes for each of a real model where a plan takes
// seconds.
func TestPlanDoesNotProjectLayers(t *testing.T) {
	dir, text := tiny(t, "tiny-opt")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	o.Curvature, o.PowerSteps, o.Rank = curvature.KronSum, 6, 3
	o.Structure, o.Cost, o.Update = prune.Element, prune.OBD, prune.None
	dev := orders{Device: cpu.Open()}
	defer dev.Close()
	if _, err := Plan(context.Background(), &dev, o, &silent{}); err != nil {
		t.Fatal(err)
	}
	const n = largestMeasured / 2
	if k := len(dev.seen); (k != 2 && k != 4) || slices.ContainsFunc(dev.seen, func(order int) bool { return order != n }) { // A and G, once or twice
		t.Errorf("eigenvalues of matrices of order %v, want those of order %d of a term", dev.seen, n)
	}
}

// What would be caught: a measured pass that stands for more or fewer than the run makes.
func TestFewerPasses(t *testing.T) {
	for _, o := range []curvature.Options{
		{Kind: curvature.KFAC},
		{Kind: curvature.Nearest, PowerSteps: 6},
		{Kind: curvature.Nearest, PowerSteps: 2},
		{Kind: curvature.KronSum, PowerSteps: 6, Rank: 3},
		{Kind: curvature.KronSum, PowerSteps: 4, Rank: 2},
	} {
		fewer, times := fewerPasses(o)
		if err := fewer.Check(); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
		if got := times * float64(fewer.Passes()); got != float64(o.Passes()) || fewer.Passes() > 8 {
			t.Errorf("%+v: %v times %d passes", o, times, fewer.Passes())
		}
	}
}

// What would be caught: a plan that adds the time in which shots are written beside the next ones, or leaves out what the run
// waits for them.
func TestPlanOfSaving(t *testing.T) {
	dir, _ := tiny(t, "tiny-llama")
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, prunable := counts(c.Config)
	const each = 8. // seconds that a shot takes to write
	for _, test := range []struct {
		precision string
		kind      curvature.Kind
		measured  float64 // seconds of each shot's curvature
		want      float64
	}{
		{"float32", curvature.KFAC, 20, 3*each + each},            // on the device: written at once
		{"bfloat16", curvature.Nearest, 20, 3*each + each},        // as are the matrices that the next measurement starts from
		{"bfloat16", curvature.KFAC, 20, each + each},             // the last shot, and the output
		{"bfloat16", curvature.KFAC, 3, each + 2*(each-3) + each}, // a disk that is slower than the device
	} {
		o := Options{Shots: 3, Samples: 1, Target: 0.3, Precision: test.precision, Curvature: test.kind}
		var p PlanReport
		p.planTime(c.Config, o, rates{curvature: test.measured, bytes: each / (4 * float64(prunable))}, 0)
		last := p.Stages[len(p.Stages)-1]
		if last.Name != "journal and output" || math.Abs(last.Seconds-test.want) > 1e-9 {
			t.Errorf("%+v: %s takes %v s", test, last.Name, last.Seconds)
		}
	}
}
