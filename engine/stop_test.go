package engine

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"surgeon/engine/device/cpu"
	"surgeon/engine/internal/stop"
	"surgeon/engine/prune"
)

// stopping is a context, and a watcher that ends it when a stage has made so many steps, with 0 when it begins; a stage that begins
// after that, or a further step, is an error.
func stopping(t *testing.T, stage string, steps int) (context.Context, *silent) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	in := false
	w := &silent{}
	w.onStage = func(name string) {
		if ctx.Err() != nil {
			t.Errorf("stopped in %q, the run comes to %q", stage, name)
		}
		if in = name == stage; in && steps == 0 {
			cancel()
		}
	}
	w.onStep = func(done int) {
		if in && ctx.Err() != nil {
			t.Errorf("stopped in %q at step %d, the run makes step %d", stage, steps, done)
		}
		if in && done == steps {
			cancel()
		}
	}
	return ctx, w
}

// What would be caught: a stage that takes minutes for a large model, and does not end before its end when the run is stopped; a stop
// that passes for a wrong request, leaves a part of an output, or costs a shot.
func TestStopInLongStages(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	whole := tinyOptions(dir, text, filepath.Join(t.TempDir(), "whole"))
	whole.Structure, whole.Eval = prune.Structure{N: 2, M: 4}, []string{text}
	if _, err := pruneTiny(t, context.Background(), whole, &silent{}); err != nil {
		t.Fatal(err)
	}
	o := whole
	o.Output = filepath.Join(t.TempDir(), "out")
	for _, at := range []struct {
		stage string
		steps int
		shots int // that the report has; −1 where there is no report
	}{
		{"text", 0, -1},
		{"checksum of the model", 0, -1},
		{"load", 0, -1},
		{"rounding", 0, 4},
		{"text", 0, -1},
		{"checksum of the model", 0, -1},
		{"load", 0, -1},
		{"dead propagation", 0, 4},
		{"dead propagation", 1, 4},
		{"dead propagation", 15, 4}, // it goes twice through 14 layers
		{"check of the blocks", 0, 4},
		{"check of the blocks", 1, 4},
		{"write", 0, 4},
	} {
		ctx, w := stopping(t, at.stage, at.steps)
		r, err := pruneTiny(t, ctx, o, w)
		if _, request := errors.AsType[*RequestError](err); !errors.Is(err, context.Canceled) || request {
			t.Fatalf("stopped in %q: %v", at.stage, err)
		}
		shots := -1
		if r != nil {
			shots = len(r.Shots)
		}
		if shots != at.shots {
			t.Errorf("stopped in %q: a report of %d shots, want %d", at.stage, shots, at.shots)
		}
		if list, _ := filepath.Glob(filepath.Dir(o.Output) + "/*out*"); len(list) > 1 || len(list) == 1 && list[0] != o.Output+".work" {
			t.Errorf("stopped in %q: there are %q", at.stage, list)
		}
	}
	dev := cpu.Open()
	defer dev.Close()
	resumed, err := begin(dev, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := resumed.restore(stop.Countdown(3), 4, &state{}); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped in bringing a shot back: %v", err)
	}
	resumed.close()
	again := &silent{}
	if _, err := pruneTiny(t, context.Background(), o, again); err != nil || len(again.shots) != 0 {
		t.Errorf("the run does not go on after its last shot: %v, %d shots", err, len(again.shots))
	}
	if !bytes.Equal(weightsOf(t, o.Output), weightsOf(t, whole.Output)) {
		t.Error("the run ends in other bits")
	}
}

// What would be caught: the same in what is no pruning.
func TestStopPlanAndEvaluation(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	dev := cpu.Open()
	defer dev.Close()
	tasks := filepath.Join(t.TempDir(), "tasks.jsonl")
	if err := os.WriteFile(tasks, []byte(`{"context": "a", "choices": ["b", "c"], "answer": 0}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, stage := range []string{"text", "check of the weights"} {
		ctx, w := stopping(t, stage, 0)
		_, err := Plan(ctx, dev, tinyOptions(dir, text, filepath.Join(t.TempDir(), "out")), w)
		if _, request := errors.AsType[*RequestError](err); !errors.Is(err, context.Canceled) || request {
			t.Errorf("plan, stopped in %q: %v", stage, err)
		}
	}
	for _, o := range []EvalOptions{{Text: []string{text}, Length: 32}, {Tasks: []string{tasks}, Results: filepath.Join(t.TempDir(), "results.jsonl")}} {
		for _, stage := range []string{"text", "load"} {
			ctx, w := stopping(t, stage, 0)
			o.Model, o.Precision = dir, "float32"
			_, err := Evaluate(ctx, dev, o, w)
			if _, request := errors.AsType[*RequestError](err); !errors.Is(err, context.Canceled) || request {
				t.Errorf("evaluation, stopped in %q: %v", stage, err)
			}
		}
	}
}

// What would be caught: a look at the context, of all there are in a run with complete shots, after which the run goes on, loses a
// shot, or tells of other shots than there are.
func TestStopAtEveryLook(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	whole := tinyOptions(dir, text, filepath.Join(t.TempDir(), "whole"))
	if _, err := pruneTiny(t, context.Background(), whole, &silent{}); err != nil {
		t.Fatal(err)
	}
	o := whole
	o.Output = filepath.Join(t.TempDir(), "out")
	complete, looks := 0, 0
	for n := 1; ; n += 1 + n/8 { // all early ones, which are those of reading
		w := &silent{}
		r, err := pruneTiny(t, stop.Countdown(n), o, w)
		if err == nil {
			looks = n
			break
		}
		complete += len(w.shots)
		if _, request := errors.AsType[*RequestError](err); !errors.Is(err, context.Canceled) || request {
			t.Fatalf("stopped at look %d: %v", n, err)
		}
		if r != nil && len(r.Shots) != complete {
			t.Errorf("stopped at look %d: a report of %d shots, and %d are complete", n, len(r.Shots), complete)
		}
	}
	t.Logf("a run of %d looks or fewer", looks)
	if !bytes.Equal(weightsOf(t, o.Output), weightsOf(t, whole.Output)) {
		t.Error("the run ends in other bits")
	}
}
