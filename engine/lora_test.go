package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// loraOptions prune a tiny model in two shots, each with a round on four windows, and a last round of two epochs.
func loraOptions(model, text, output string) Options {
	o := tinyOptions(model, text, output)
	o.Shots, o.Lora, o.LoraRank, o.LoraRate, o.LoraShare, o.LoraEpochs = 2, true, 2, 3e-4, 0.3, 2
	return o
}

// What would be caught: a round that raises the loss, whose figures are not those of the model before and after it, that brings
// a weight back which the shot or the block structure has removed, or changes what is removed.
func TestLora(t *testing.T) {
	for _, structure := range []prune.Structure{prune.RowCol, prune.Element, {N: 2, M: 4}} {
		for _, precision := range []string{"float32", "bfloat16"} {
			t.Run(structure.String()+" "+precision, func(t *testing.T) {
				dir, text := tiny(t, "tiny-opt")
				o := loraOptions(dir, text, filepath.Join(t.TempDir(), "out"))
				o.Structure, o.Precision, o.Group, o.Target = structure, precision, 500, 0.5
				o.StepLimit = 0.5
				w := &silent{}
				r, err := pruneTiny(t, context.Background(), o, w)
				if err != nil {
					t.Fatal(err)
				}
				loss := r.Dense.HeldOutLoss
				for _, s := range r.Shots {
					l := s.Lora
					if l == nil || l.Windows != 4 || l.Epochs != 1 || l.LossAfter != s.LossAfter || s.LossBefore != loss || !(l.LossAfter < l.LossBefore) || s.Seconds["lora"] <= 0 {
						t.Fatalf("shot %d: %+v, round %+v", s.Number, s, l)
					}
					loss = s.LossAfter
				}
				if l := r.Final.Lora; l == nil || l.Windows != 12 || l.Epochs != 2 || l.LossBefore != loss || !(l.LossAfter < l.LossBefore) {
					t.Errorf("last round %+v after a loss of %v", l, loss)
				}
				if s := r.Shots[1]; r.Final.Sparsity < s.Reached || s.Reached < 0.4 {
					t.Errorf("after the shots %v are gone, at the end %v", s.Reached, r.Final.Sparsity)
				}
				if n := len(slices.DeleteFunc(slices.Clone(w.said), func(s string) bool { return !strings.HasPrefix(s, "low-rank corrections on ") })); n != 3 {
					t.Errorf("%d rounds were told: %q", n, w.said)
				}
				without := o
				without.Output, without.Lora = filepath.Join(t.TempDir(), "out"), false
				plain, err := pruneTiny(t, context.Background(), without, &silent{})
				if err != nil {
					t.Fatal(err)
				}
				if first := r.Shots[0]; first.Lora.LossBefore != plain.Shots[0].LossAfter || first.Reached != plain.Shots[0].Reached || *first.PredictedIncrease != *plain.Shots[0].PredictedIncrease {
					t.Errorf("the first shot is %+v, without corrections %+v", first, plain.Shots[0])
				}
				if !(r.Final.HeldOutLoss < plain.Final.HeldOutLoss) || plain.Shots[0].Lora != nil || plain.Final.Lora != nil {
					t.Errorf("at the end %+v, without corrections %+v", r.Final, plain.Final)
				}
				if card, err := os.ReadFile(filepath.Join(o.Output, "README.md")); err != nil || !strings.Contains(string(card), "- After the last shot: low-rank corrections (12 windows, epochs: 2)") {
					t.Errorf("the model card says nothing of it: %v\n%s", err, card)
				}
			})
		}
	}
}

// What would be caught: a run that is stopped after a shot, in the middle of a round, in the last round or after it, and ends in
// other bits; also where a curvature's start for the next shot is kept.
func TestLoraResumes(t *testing.T) {
	for _, precision := range []string{"float32", "bfloat16"} {
		dir, text := tiny(t, "tiny-opt")
		whole := loraOptions(dir, text, filepath.Join(t.TempDir(), "whole"))
		whole.Precision, whole.Curvature, whole.PowerSteps = precision, curvature.Nearest, 2
		want, err := pruneTiny(t, context.Background(), whole, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		o := whole
		o.Output = filepath.Join(t.TempDir(), "out")
		for _, stop := range []struct {
			stage string
			step  int
		}{{"shot 1 of 2: lora", 2}, {"shot 1 of 2: check", 4}, {"shot 2 of 2: lora", 4}, {"shot 2 of 2: check", 4}, {"last round of lora", 5}, {"last round of lora", 24}, {"check after the last round of lora", 2}} {
			ctx, cancel := context.WithCancel(context.Background())
			var stage string
			_, err := pruneTiny(t, ctx, o, &silent{onStage: func(name string) { stage = name }, onStep: func(done int) {
				if stage == stop.stage && done == stop.step {
					cancel()
				}
			}})
			if cancel(); !errors.Is(err, context.Canceled) {
				t.Fatalf("stopped in %v the run ends with %v", stop, err)
			}
		}
		got, err := pruneTiny(t, context.Background(), o, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(weightsOf(t, o.Output), weightsOf(t, whole.Output)) {
			t.Errorf("%s: the stopped run ends in other bits", precision)
		}
		if g, w := got.Final.Lora, want.Final.Lora; g.LossBefore != w.LossBefore || g.LossAfter != w.LossAfter || !slices.Equal(got.ResumedFrom, []int{1, 2}) {
			t.Errorf("%s: last round %+v, want %+v; taken up after %v", precision, g, w, got.ResumedFrom)
		}
		for i := range want.Shots {
			if g, w := got.Shots[i].Lora, want.Shots[i].Lora; g.LossBefore != w.LossBefore || g.LossAfter != w.LossAfter {
				t.Errorf("%s: shot %d: round %+v, want %+v", precision, i+1, g, w)
			}
		}
	}
}

// What would be caught: two rounds on the same windows or from the same corrections, whatever the seed; a share that is rounded
// the wrong way.
func TestLoraWindows(t *testing.T) {
	for _, test := range []struct {
		samples int
		share   float64
		want    int
	}{{128, 0.025, 4}, {40, 0.025, 1}, {41, 0.025, 2}, {1, 0.025, 1}, {30, 0.1, 3}, {100, 0.07, 7}, {12, 1, 12}, {12, 0.5, 6}} {
		o := Options{Samples: test.samples, LoraShare: test.share}
		if n := o.loraWindows(); n != test.want {
			t.Errorf("%v of %d windows are %d, want %d", test.share, test.samples, n, test.want)
		}
	}
	drawn := map[string]bool{}
	for seed := range uint64(3) {
		for number := lastRound; number < 4; number++ {
			o := Options{Samples: 100, Seed: seed}
			chosen, of := o.drawLora(number, 10)
			drawn[fmt.Sprint("windows ", chosen)], drawn[fmt.Sprint("seed ", of)] = true, true
		}
	}
	if len(drawn) != 2*3*4 {
		t.Errorf("12 rounds draw these windows and seeds: %v", drawn)
	}
}

// What would be caught: corrections that make no sense and are made, or whose refusal does not say what to do; options about
// them that do nothing; an identity of runs without them that has changed, so that they do not go on.
func TestLoraRequests(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	for _, test := range []struct {
		want   string
		change func(*Options)
	}{
		{"--lora-rank is 0; at least 1", func(o *Options) { o.LoraRank = 0 }},
		{"--lora-rank is 33; the layer model.layers.0.self_attn.", func(o *Options) { o.LoraRank = 33 }},
		{"--lora-rate is 0", func(o *Options) { o.LoraRate = 0 }},
		{"--lora-rate is NaN", func(o *Options) { o.LoraRate = math.NaN() }},
		{"--lora-rate is +Inf", func(o *Options) { o.LoraRate = math.Inf(1) }},
		{"--lora-share is 0", func(o *Options) { o.LoraShare = 0 }},
		{"--lora-share is 1.5", func(o *Options) { o.LoraShare = 1.5 }},
		{"--lora-share is NaN", func(o *Options) { o.LoraShare = math.NaN() }},
		{"--lora-epochs is -1", func(o *Options) { o.LoraEpochs = -1 }},
		{"--lora-share is about low-rank corrections, which are not asked for; add --lora", func(o *Options) { o.Lora, o.Given = false, []string{"target", "lora-share"} }},
	} {
		o := loraOptions(dir, text, filepath.Join(t.TempDir(), "out"))
		test.change(&o)
		_, err := pruneTiny(t, context.Background(), o, &silent{})
		var request *RequestError
		if !errors.As(err, &request) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want a RequestError with %q", err, test.want)
		}
	}
	o := loraOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := pruneTiny(t, ctx, o, &silent{onShot: func(report.Shot) { cancel() }}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	o.LoraRate *= 2
	if _, err := pruneTiny(t, context.Background(), o, &silent{}); err == nil || !strings.Contains(err.Error(), "--lora-rate: 0.0003 there, 0.0006 here") {
		t.Errorf("with another rate: %v", err)
	}
	none := map[string]any{}
	if (&Options{LoraRank: 8, LoraRate: 1e-4}).loraIdentity(none); len(none) > 0 {
		t.Errorf("without corrections the identity has %v", none)
	}
}

// What would be caught: a round that fails and is not told with its place, or after which something is saved.
func TestLoraFails(t *testing.T) {
	lost := errors.New("the device is lost")
	dir, text := tiny(t, "tiny-llama")
	for stage, want := range map[string]string{
		"shot 2 of 2: lora":  "shot 2: lora: step 2 of 4, calibration window ",
		"last round of lora": "last round of lora: step 2 of 24, calibration window ",
	} {
		o := loraOptions(dir, text, filepath.Join(t.TempDir(), "out"))
		d := &failing{Device: cpu.Open()}
		var now string
		_, err := Prune(context.Background(), d, o, &silent{onStage: func(name string) { now = name }, onStep: func(int) {
			if now == stage {
				d.failure = lost
			}
		}})
		if !errors.Is(err, lost) || !strings.Contains(err.Error(), want) {
			t.Errorf("a device lost in %s: %v", stage, err)
		}
		d.Close()
	}
	o := loraOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	o.LoraRate = 1e30
	w := &silent{}
	_, err := pruneTiny(t, context.Background(), o, w)
	var request *RequestError
	if err == nil || errors.As(err, &request) || !strings.Contains(err.Error(), "shot 1: lora: step 2 of 4, calibration window ") || !strings.Contains(err.Error(), "the loss is NaN") || len(w.shots) > 0 {
		t.Errorf("a rate of 1e30, after %d shots: %v", len(w.shots), err)
	}
}

// What would be caught: a plan of the device's memory that a round exceeds, or that is far above it, time that it does not
// count, a plan for one turn of the loop, which has no rounds, that counts them.
func TestLoraPlan(t *testing.T) {
	for _, model := range []string{"tiny-llama", "tiny-opt"} {
		for _, precision := range []string{"float32", "bfloat16"} {
			for _, kind := range []curvature.Kind{curvature.Identity, curvature.Nearest} {
				dir, text := tiny(t, model)
				o := loraOptions(dir, text, filepath.Join(t.TempDir(), "out"))
				o.Precision, o.Curvature, o.Batch, o.Length, o.PowerSteps = precision, kind, 1, 64, 2
				if kind == curvature.Identity {
					o.Update = prune.None
				}
				d := openSeparate(t, 1<<40)
				if precision == "bfloat16" {
					d.page = 3 << 10
				}
				var stage string
				used := map[string]int64{}
				r, err := Prune(context.Background(), &roundOnly{d, &stage}, o, &silent{onStage: func(name string) { stage, used[name] = name, d.used }})
				if err != nil {
					t.Fatal(err)
				}
				if before, after := used["shot 1 of 2: check before lora"], used["shot 1 of 2: check"]; before != after || before == 0 {
					t.Errorf("%s in %s, %v: %d bytes were held before a round, %d after it", model, precision, kind, before, after)
				}
				var planned int64
				for _, p := range runParts(configOf(t, dir), r.Options.(Options)) {
					if p.Phase == "" || p.Phase == correcting {
						planned += p.Bytes
					}
				}
				if ratio := float64(d.peak) / float64(planned); ratio > 1.02 || ratio < 0.95 {
					t.Errorf("%s in %s, %v: rounds were planned with %d bytes and took %d, %.3f times as many", model, precision, kind, planned, d.peak, ratio)
				}
			}
		}
	}
	dir, text := tiny(t, "tiny-llama")
	o := loraOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	p, err := Plan(context.Background(), openSeparate(t, 1<<40), o, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(p.Stages, func(s PlanStage) bool { return s.Name == "lora" }); i < 0 || !(p.Stages[i].Seconds > 0) {
		t.Errorf("the plan's stages are %+v", p.Stages)
	}
	parts, _, err := PlanTurn(openSeparate(t, 1<<40), configOf(t, dir), &o)
	if err != nil || slices.ContainsFunc(parts, func(p PlanPart) bool { return p.Phase == correcting }) {
		t.Errorf("a turn is planned with %+v: %v", parts, err)
	}
}

// What would be caught: a run that the device has no room for in its rounds alone, and that begins, or is told what does not help.
func TestNoRoomForLora(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := loraOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	o.Curvature, o.Update, o.Length, o.Batch = curvature.Identity, prune.None, 64, 2
	need, phase := peak(runParts(configOf(t, dir), o))
	_, err := Prune(context.Background(), openSeparate(t, need-1), o, &silent{})
	var request *RequestError
	if !errors.As(err, &request) || phase != correcting {
		t.Fatalf("%s takes most; got %v", phase, err)
	}
	for _, s := range []string{"during lora: weights ", "weights before, and corrections ", "a shorter --length", "leaving --lora out"} {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%v does not say %q", err, s)
		}
	}
	if strings.Contains(err.Error(), "--batch") {
		t.Errorf("%v: rounds do not depend on the batch", err)
	}
}

// roundOnly is a device that counts its peak in rounds of corrections alone.
type roundOnly struct {
	*separate
	stage *string
}

func (d *roundOnly) Alloc(rows, cols int, t device.Type) device.Tensor {
	peak := d.peak
	x := d.separate.Alloc(rows, cols, t)
	if !strings.HasSuffix(*d.stage, "lora") || strings.Contains(*d.stage, "check") {
		d.peak = peak
	}
	return x
}
