package engine

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"surgeon/engine/curvature"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// What would be caught: a model on the way that is not that of a run which ends there; a run that is another one for having
// written it: float16 rounds embeddings too, dead propagation zeroes more, warm starts are kept beside the weights.
func TestWriteAt(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-opt"} {
		for _, change := range []func(*Options){
			func(o *Options) {},
			func(o *Options) { o.DType = "F16" },
			func(o *Options) { o.Precision = "bfloat16" },
			func(o *Options) { o.Curvature, o.PowerSteps = curvature.Nearest, 4 },
			func(o *Options) { o.Structure, o.Group = prune.Structure{N: 2, M: 4}, 50 },
		} {
			dir, text := tiny(t, name)
			whole := tinyOptions(dir, text, filepath.Join(t.TempDir(), "whole"))
			change(&whole)
			want, err := pruneTiny(t, context.Background(), whole, &silent{})
			if err != nil {
				t.Fatal(err)
			}
			half := whole
			half.Target, half.Shots, half.Output = whole.Target/2, whole.Shots/2, filepath.Join(t.TempDir(), "half")
			wantHalf, err := pruneTiny(t, context.Background(), half, &silent{})
			if err != nil {
				t.Fatal(err)
			}
			o := whole
			o.Output, o.WriteAt = filepath.Join(t.TempDir(), "out"), []float64{0.2}
			w := &silent{}
			got, err := pruneTiny(t, context.Background(), o, w)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(weightsOf(t, o.Output), weightsOf(t, whole.Output)) || got.Final.HeldOutLoss != want.Final.HeldOutLoss {
				t.Errorf("%s, %v %s %s: the run ends in other bits for having written on the way", name, o.Structure, o.Precision, o.DType)
			}
			if !bytes.Equal(weightsOf(t, o.OutputAt(0.2)), weightsOf(t, half.Output)) {
				t.Errorf("%s, %v %s %s: the model on the way is not that of a run which ends there", name, o.Structure, o.Precision, o.DType)
			}
			part, err := report.Read(filepath.Join(o.OutputAt(0.2), reportName))
			if err != nil {
				t.Fatal(err)
			}
			if len(part.Shots) != 2 || part.Final.HeldOutLoss != wantHalf.Final.HeldOutLoss || part.Final.Sparsity != wantHalf.Final.Sparsity || len(part.Layers) != len(want.Layers) {
				t.Errorf("%s: its report has %d shots and ends with %+v, want %+v", name, len(part.Shots), part.Final, wantHalf.Final)
			}
			if options := part.Options.(map[string]any); options["target"] != 0.2 || options["shots"] != 2. {
				t.Errorf("%s: its report says target %v in %v shots", name, options["target"], options["shots"])
			}
			if len(got.Layers) != len(want.Layers) || len(got.Shots) != 4 {
				t.Errorf("%s: the last report has %d layers and %d shots", name, len(got.Layers), len(got.Shots))
			}
			if said := strings.Join(w.said, "\n"); !strings.Contains(said, "the model at 0.2 is written: "+o.OutputAt(0.2)) {
				t.Errorf("nothing was said of it: %s", said)
			}
		}
	}
}

// What would be caught: shots that end a rounding error away from the share that people write, so that one weight less goes, or
// one block less than was promised.
func TestScheduled(t *testing.T) {
	for shots := 1; shots <= 40; shots++ {
		for cents := 1; cents < 100; cents++ {
			o := Options{Target: float64(cents) / 100, Shots: shots}
			for shot := 1; shot <= shots; shot++ {
				if got, want := o.scheduled(shot), float64(cents*shot/shots)/100; cents*shot%shots == 0 && got != want {
					t.Fatalf("shot %d of %d to %v ends at %v, want %v", shot, shots, o.Target, got, want)
				}
			}
		}
	}
}

// What would be caught: a run that was stopped while it wrote on the way, or before, and forgets to; one that was stopped
// afterwards, and does it again or refuses what lies there.
func TestWriteAtResumes(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	whole := tinyOptions(dir, text, filepath.Join(t.TempDir(), "whole"))
	whole.Eval, whole.WriteAt = []string{text}, []float64{0.1, 0.3}
	want, err := pruneTiny(t, context.Background(), whole, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	o := whole
	o.Output = filepath.Join(t.TempDir(), "out")
	written := 0
	for stage := 1; ; stage++ { // stopped sooner and later
		ctx, cancel := context.WithCancel(context.Background())
		stages := 0
		w := &silent{onStage: func(string) {
			if stages++; stages == 3+stage%13 {
				cancel()
			}
		}}
		_, err := pruneTiny(t, ctx, o, w)
		cancel()
		written += strings.Count(strings.Join(w.said, "\n"), "is written")
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) || stage > 200 {
			t.Fatal(err)
		}
	}
	if written != 2 {
		t.Errorf("%d models were written on the way, want 2", written)
	}
	for _, share := range whole.WriteAt {
		if !bytes.Equal(weightsOf(t, o.OutputAt(share)), weightsOf(t, whole.OutputAt(share))) {
			t.Errorf("the model at %v has other bits after stops", share)
		}
		r, err := report.Read(filepath.Join(o.OutputAt(share), reportName))
		if err != nil || len(r.Evaluations) != 2 {
			t.Errorf("the report at %v has %d evaluations, want 2; %v", share, len(r.Evaluations), err)
		}
	}
	if !bytes.Equal(weightsOf(t, o.Output), weightsOf(t, whole.Output)) {
		t.Error("the run ends in other bits after stops")
	}
	if len(want.Evaluations) != 2 {
		t.Errorf("the last report has %d evaluations, want 2", len(want.Evaluations))
	}
}

// What would be caught: shares that are passed over in silence, and a model of somebody's that is replaced on the way.
func TestWriteAtRefuses(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	good := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	good.WriteAt = []float64{0.2}
	if _, err := pruneTiny(t, context.Background(), good, &silent{}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.WriteAt = []float64{0.15} }, "--write-at 0.15: no shot on the way to --target 0.4 ends there; they end at 0.1, 0.2, 0.3"},
		{func(o *Options) { o.WriteAt = []float64{0.2, 0.4} }, "--write-at 0.4: no shot on the way"},
		{func(o *Options) { o.Shots, o.StepLimit = 1, 0.5 }, "--write-at 0.2: with one shot there is nothing on the way to --target 0.4"},
		{func(o *Options) { o.Lora, o.LoraRank, o.LoraRate, o.LoraShare, o.LoraEpochs = true, 2, 1e-4, 0.5, 1 }, "--write-at with --lora-epochs 1"},
		{func(o *Options) { o.Work = o.OutputAt(0.2) + "/work" }, "lie in one another"},
		{func(o *Options) {
			o.Output, o.WriteAt, o.Seed = strings.TrimSuffix(good.OutputAt(0.2), "-0.2"), []float64{0.2}, 7
		}, "is there already"},
	} {
		o := good
		o.Output = filepath.Join(t.TempDir(), "other")
		test.change(&o)
		_, err := pruneTiny(t, context.Background(), o, &silent{})
		var request *RequestError
		if !errors.As(err, &request) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
}
