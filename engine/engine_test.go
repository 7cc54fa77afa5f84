package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// What would be caught: a whole run that does not reach its target, does not write a model that loads, or reports a loss
// that is not that of the written file.
func TestPruneWritesWhatItMeasured(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-llama3", "tiny-mistral", "tiny-qwen2", "tiny-qwen3", "tiny-opt", "tiny-opt-post"} {
		for _, types := range []struct{ precision, written string }{{"float32", ""}, {"float32", "BF16"}, {"bfloat16", ""}, {"bfloat16", "F16"}} {
			t.Run(name+" in "+types.precision+" "+types.written, func(t *testing.T) {
				dir, text := tiny(t, name)
				o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
				o.Precision, o.DType, o.Eval = types.precision, types.written, []string{text}
				w := &silent{}
				r, err := pruneTiny(t, context.Background(), o, w)
				if err != nil {
					t.Fatal(err)
				}
				if len(w.shots) != o.Shots || len(r.Shots) != o.Shots {
					t.Fatalf("%d shots told, %d reported", len(w.shots), len(r.Shots))
				}
				// A row or column of the widest layer is 65 of some 17,000 weights.
				if last := r.Shots[o.Shots-1].Reached; last > o.Target || last < o.Target-0.02 {
					t.Errorf("reached %v of %v", last, o.Target)
				}
				dev := cpu.Open()
				defer dev.Close()
				if len(r.Evaluations) != 2 || !r.Evaluations[0].Calibration || r.Evaluations[0].Perplexity != math.Exp(r.Evaluations[0].Loss) {
					t.Errorf("evaluations %+v", r.Evaluations)
				}
				again, err := Evaluate(context.Background(), dev, EvalOptions{Model: o.Output, Text: []string{text}, Length: o.Length, Batch: 2, Precision: o.Precision}, w)
				if err != nil || again.Texts[0].Loss != r.Evaluations[1].Loss {
					t.Errorf("evaluated again: %+v, %v, want %+v", again, err, r.Evaluations[1])
				}
				if math.Abs(r.Final.HeldOutLoss-r.Shots[o.Shots-1].LossAfter) > 0.02 {
					t.Errorf("loss after the last shot %v, as written %v", r.Shots[o.Shots-1].LossAfter, r.Final.HeldOutLoss)
				}
				checkFiles(t, o.Output, r)
				if _, err := os.Stat(o.Output + ".work"); !os.IsNotExist(err) {
					t.Errorf("the work directory of a complete run is still there: %v", err)
				}
			})
		}
	}
}

// What would be caught: a report that forgets what the GPU did, or that asks before the run has ended.
func TestReportTellsOfTheGPU(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	o.Shots = 2
	w := &silent{}
	o.GPU = func() *report.GPU { return &report.GPU{Name: "some GPU", Samples: len(w.shots)} }
	if _, err := pruneTiny(t, context.Background(), o, w); err != nil {
		t.Fatal(err)
	}
	r, err := report.Read(filepath.Join(o.Output, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	if r.GPU == nil || r.GPU.Name != "some GPU" || r.GPU.Samples != 2 {
		t.Errorf("the report has %+v", r.GPU)
	}
}

// checkFiles looks at what lies beside the weights, and compares the zeros in the weights with the report.
func checkFiles(t *testing.T, dir string, r *report.Report) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Final struct {
			Sparsity float64 `json:"sparsity"`
		} `json:"final"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil || doc.Final.Sparsity != r.Final.Sparsity {
		t.Errorf("report.json: %v, sparsity %v, want %v", err, doc.Final.Sparsity, r.Final.Sparsity)
	}
	for _, name := range []string{"README.md", "tokenizer.json", "config.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	kept, total := 0, 0
	for i, l := range c.Config.Linears() {
		w := make([]float32, l.Rows*l.Cols)
		if err := c.Read(l.WeightName(), w); err != nil {
			t.Fatal(err)
		}
		rows := map[int]bool{}
		for _, k := range r.Layers[i].KeptRows {
			rows[k] = true
		}
		cols := map[int]bool{}
		for _, k := range r.Layers[i].KeptCols {
			cols[k] = true
		}
		for k, v := range w {
			if v != 0 && !(rows[k/l.Cols] && cols[k%l.Cols]) {
				t.Fatalf("%s[%d,%d] is %v and should be gone", l.Name, k/l.Cols, k%l.Cols, v)
			}
		}
		kept += len(rows) * len(cols)
		total += r.Layers[i].Rows * r.Layers[i].Cols
	}
	if s := 1 - float64(kept)/float64(total); math.Abs(s-r.Final.Sparsity) > 1e-12 {
		t.Errorf("kept rows and columns give a sparsity of %v, the report says %v", s, r.Final.Sparsity)
	}
}

// What would be caught: a rule of dead propagation that changes what the model computes. The propagation must change no
// logit beyond rounding, also where heavy pruning leaves much dead.
func TestDeadPropagationIsExact(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-llama3", "tiny-qwen2", "tiny-qwen3", "tiny-opt", "tiny-opt-post"} {
		t.Run(name, func(t *testing.T) {
			dir, text := tiny(t, name)
			o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
			o.Precision, o.Target, o.StepLimit, o.Curvature, o.Update = "float64", 0.8, 1, curvature.Identity, prune.None
			dev := cpu.Open()
			defer dev.Close()
			r, err := begin(dev, o)
			if err != nil {
				t.Fatal(err)
			}
			defer r.close()
			// rows and columns that go by chance, so that every rule has something to do
			for i, l := range r.model.Linears() {
				w := r.layer(nil, i)
				all, err := prune.Alive(dev, []prune.Layer{w})
				if err != nil {
					t.Fatal(err)
				}
				alive := all[0]
				for j := range alive.Rows {
					alive.Rows[j] = alive.Rows[j] && (j*7+i*3)%8 > 2
				}
				for j := range alive.Cols {
					alive.Cols[j] = alive.Cols[j] && (j*5+i)%8 > 1
				}
				l.SetMatrix(prune.Restrict(dev, w.W, alive))
			}
			before, total := device.DownloadSlice[float64](dev, r.model.Logits(r.calibration[:3])), countZeros(r)
			if err := r.propagateDead(context.Background()); err != nil {
				t.Fatal(err)
			}
			after, more := device.DownloadSlice[float64](dev, r.model.Logits(r.calibration[:3])), countZeros(r)
			for i := range before {
				if math.Abs(before[i]-after[i]) > 1e-12*(1+math.Abs(before[i])) {
					t.Fatalf("logit %d was %v and is %v", i, before[i], after[i])
				}
			}
			if more <= total {
				t.Errorf("nothing was found dead: %d zeros before, %d after", total, more)
			}
		})
	}
}

func countZeros(r *run) int {
	n := 0
	for _, l := range r.model.Linears() {
		for _, v := range r.model.Values(l.WeightName()) {
			if v == 0 {
				n++
			}
		}
	}
	return n
}

// What would be caught: a run that keeps a model above the limit, or none.
func TestMaxLoss(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	free := tinyOptions(dir, text, filepath.Join(t.TempDir(), "free"))
	free.Target, free.Update, free.StepLimit, free.KeepShots = 0.8, prune.None, 1, true // so that the loss rises
	all, err := pruneTiny(t, context.Background(), free, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for stop := range all.Shots { // where the loss rises above all before it
		before, highest := all.Dense.HeldOutLoss, all.Dense.HeldOutLoss
		for _, s := range all.Shots[:stop] {
			before, highest = s.LossAfter, max(highest, s.LossAfter)
		}
		if all.Shots[stop].LossAfter <= highest {
			continue
		}
		tried++
		o := free
		o.Output, o.Work, o.KeepShots = filepath.Join(t.TempDir(), "out"), "", false
		o.MaxLoss = (highest + all.Shots[stop].LossAfter) / 2
		r, err := pruneTiny(t, context.Background(), o, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Shots) != stop || !strings.Contains(r.Final.StoppedEarly, "--max-loss") {
			t.Errorf("%d shots were kept, stopped early: %q", len(r.Shots), r.Final.StoppedEarly)
		}
		if math.Abs(r.Final.HeldOutLoss-before) > 1e-6 {
			t.Errorf("the loss of the model that is kept is %v, want %v", r.Final.HeldOutLoss, before)
		}
	}
	if tried == 0 {
		t.Fatalf("the loss does not rise anywhere: %+v", all.Shots)
	}
}

// What would be caught: work on a model that is above the limit from the start, or traces of it.
func TestMaxLossBelowDense(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	o.MaxLoss = 0.5
	_, err := pruneTiny(t, context.Background(), o, &silent{})
	var request *RequestError
	if !errors.As(err, &request) || !strings.Contains(err.Error(), "dense model") {
		t.Errorf("%v, want a refusal", err)
	}
	if _, err := os.Stat(o.Output + ".work"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the work directory is there: %v", err)
	}
	o.Work = t.TempDir() // the user's own
	if _, err := pruneTiny(t, context.Background(), o, &silent{}); !errors.As(err, &request) {
		t.Errorf("%v, want a refusal", err)
	}
	if _, err := os.Stat(o.Work); err != nil {
		t.Errorf("the work directory that was named is gone: %v", err)
	}
	o.MaxLoss = 50 // what the refusal asks for
	if _, err := pruneTiny(t, context.Background(), o, &silent{}); err != nil {
		t.Errorf("with a higher one: %v", err)
	}
}

// What would be caught: a target that is missed in silence, since every matrix has lost what the step limit lets it lose, or
// that is out of reach from the start; a warning where only the last row was too large, or where rounding is all that is missing.
func TestShortOfTarget(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	for target, want := range map[float64]bool{0.4: true, 0.36: true, 0.35: true, 0.1: false} { // 6 of 32 rows, of 64, or of 96 are less than a fifth
		o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
		o.Target, o.Shots = target, 1
		r, err := pruneTiny(t, context.Background(), o, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		if short := strings.Contains(strings.Join(r.Warnings, "\n"), "% should be; --step-limit 0.2"); short != want {
			t.Errorf("target %v, %v reached, warnings %q", target, r.Shots[0].Reached, r.Warnings)
		}
		if told := strings.Contains(strings.Join(r.Warnings, "\n"), "with --step-limit 0.2 and --shots 1 no more than 0.36 can go"); told != (target > 0.36) {
			t.Errorf("target %v, warnings %q", target, r.Warnings)
		}
	}
}

// What would be caught: a target that is passed in silence, by what was gone before the run; a warning for every shot.
func TestBeyondTarget(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "first"))
	if r, err := pruneTiny(t, context.Background(), o, &silent{}); err != nil || strings.Contains(strings.Join(r.Warnings, "\n"), "should be: what was zero") {
		t.Fatalf("%v, warnings %q", err, r.Warnings)
	}
	o.Model, o.Output, o.Target, o.Shots = o.Output, filepath.Join(t.TempDir(), "second"), 0.2, 2
	r, err := pruneTiny(t, context.Background(), o, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	if told := strings.Join(r.Warnings, "\n"); strings.Count(told, " % should be: what was zero") != 1 || !strings.Contains(told, "gone where 10.00 % should be") {
		t.Errorf("%v gone, warnings %q", r.Shots[0].Reached, r.Warnings)
	}
}

// What would be caught: a model on the way that is missing at the end of a run that stopped before it, without a word; one that
// is there and is told to be missing.
func TestStoppedBeforeOnWay(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "whole"))
	o.Target, o.Update, o.StepLimit = 0.8, prune.None, 1
	whole, err := pruneTiny(t, context.Background(), o, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	o.Output, o.WriteAt = filepath.Join(t.TempDir(), "stopped"), []float64{0.2, 0.6}
	o.MaxLoss = (whole.Shots[1].LossAfter + whole.Shots[2].LossAfter) / 2
	if !(whole.Dense.HeldOutLoss < o.MaxLoss && whole.Shots[0].LossAfter < o.MaxLoss && whole.Shots[1].LossAfter < o.MaxLoss && o.MaxLoss < whole.Shots[2].LossAfter) {
		t.Fatalf("the losses do not rise: %+v", whole.Shots)
	}
	r, err := pruneTiny(t, context.Background(), o, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	told := strings.Join(r.Warnings, "\n")
	if !strings.Contains(told, "the model at 0.6 is not written") || strings.Contains(told, "the model at 0.2") {
		t.Errorf("warnings %q", r.Warnings)
	}
	for share, want := range map[float64]bool{0.2: true, 0.6: false} {
		if _, err := os.Stat(o.OutputAt(share)); (err == nil) != want {
			t.Errorf("the model at %v: %v", share, err)
		}
	}
}

// What would be caught: a run that is complete, is given again, and measures before it sees that; a work directory that it
// leaves then.
func TestCompleteRunAgain(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	o.Eval = []string{text}
	first, err := pruneTiny(t, context.Background(), o, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range []bool{false, true} {
		if left {
			if err := os.Mkdir(o.Output+".work", 0o755); err != nil { // stopped in cleaning up
				t.Fatal(err)
			}
		}
		w := &silent{onStage: func(name string) {
			if name != "text" && name != "checksum of the model" { // which tell that it is the same run
				t.Errorf("%s begins", name)
			}
		}}
		again, err := pruneTiny(t, context.Background(), o, w)
		if err != nil || again.Run != first.Run || !strings.Contains(strings.Join(w.said, "\n"), "holds the result of this run already") {
			t.Errorf("given again: %v, said %q", err, w.said)
		}
		if _, err := os.Stat(o.Output + ".work"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the work directory is there: %v", err)
		}
	}
}

// What would be caught: shots that a run was asked to keep, and that go when its command is given again without that.
func TestKeptShotsStay(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	o.KeepShots = true
	if _, err := pruneTiny(t, context.Background(), o, &silent{}); err != nil {
		t.Fatal(err)
	}
	o.KeepShots = false
	if _, err := pruneTiny(t, context.Background(), o, &silent{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(o.Output+".work", "shot-001.safetensors")); err != nil {
		t.Errorf("a kept shot is gone: %v", err)
	}
}

// What would be caught: weights of two models in one output, because a file of the model was written over during the run; and a
// run that is refused because the file was replaced by another one, while it has the first one open.
func TestModelChangedDuringARun(t *testing.T) {
	for how, change := range map[string]func(path string, content []byte) error{
		"written over": func(path string, content []byte) error { return os.WriteFile(path, content, 0o644) },
		"replaced": func(path string, content []byte) error {
			return errors.Join(os.WriteFile(path+".new", content, 0o644), os.Rename(path+".new", path))
		},
	} {
		dir, text := tiny(t, "tiny-llama")
		path := filepath.Join(dir, "model.safetensors")
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
		w := &silent{onStage: func(name string) {
			if name == "shot 2 of 4: update" {
				other := bytes.Clone(content)
				other[len(other)-1] ^= 1
				if err := change(path, other); err != nil {
					t.Error(err)
				}
			}
		}}
		_, err = pruneTiny(t, context.Background(), o, w)
		if over := how == "written over"; (err != nil) != over || over && !strings.Contains(err.Error(), path+" was changed while it was read") {
			t.Errorf("%s: %v", how, err)
		}
	}
}

// What would be caught: a file of the model that is made shorter during a run, and ends the process with SIGBUS, or passes for a
// wrong request; shots that are lost by that.
func TestModelTruncatedDuringARun(t *testing.T) {
	for _, format := range []string{"safetensors", "GGUF"} {
		dir, text := tiny(t, "tiny-llama")
		path := filepath.Join(dir, "model.safetensors")
		if format == "GGUF" {
			dir, text = tinyGGUF(t)
			path = dir
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		whole := tinyOptions(dir, text, filepath.Join(t.TempDir(), "whole"))
		if _, err := pruneTiny(t, context.Background(), whole, &silent{}); err != nil {
			t.Fatal(err)
		}
		o := whole
		o.Output = filepath.Join(t.TempDir(), "out")
		for _, at := range []struct{ stage, want string }{
			{"load", " became shorter while it was read: it has 100 bytes now"},
			{"shot 2 of 4: curvature", " was changed while it was read"}, // what a run has loaded, it needs again to write
			{"rounding", " became shorter while it was read: it has 100 bytes now"},
			{"write", " became shorter while it was read: it has 100 bytes now"},
		} {
			w := &silent{onStage: func(name string) {
				if name == at.stage {
					if err := os.Truncate(path, 100); err != nil {
						t.Error(err)
					}
				}
			}}
			_, err := pruneTiny(t, context.Background(), o, w)
			if _, request := errors.AsType[*RequestError](err); err == nil || request || !strings.Contains(err.Error(), path+at.want) {
				t.Errorf("%s, in %q: %v", format, at.stage, err)
			}
			if _, err := os.Stat(o.Output); !os.IsNotExist(err) {
				t.Errorf("%s, in %q: there is an output", format, at.stage)
			}
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		again := &silent{}
		if _, err := pruneTiny(t, context.Background(), o, again); err != nil || len(again.shots) != 0 {
			t.Errorf("%s: the run does not go on after its last shot: %v, %d shots", format, err, len(again.shots))
		}
		if !bytes.Equal(weightsOf(t, o.Output), weightsOf(t, whole.Output)) {
			t.Errorf("%s: the run ends in other bits", format)
		}
	}
}

// What would be caught: factors of a turn that fails, or is done, which stay on the caller's device.
func TestTurnGivesBack(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	for _, kind := range []curvature.Kind{curvature.KFAC, curvature.Nearest} {
		for _, stop := range []string{"costs", "update", ""} {
			o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
			o.Curvature, o.PowerSteps = kind, 4
			d := openSeparate(t, 1<<40)
			r, err := begin(d, o)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			w := &silent{onStage: func(name string) {
				if name == stop {
					cancel()
				}
			}}
			r.model.Release()
			before := d.used
			if _, err := Turn(ctx, r.model, r.calibration, 0.1, r.options, w); (err != nil) != (stop != "") {
				t.Errorf("%v, stopped in %q: %v", kind, stop, err)
			}
			cancel()
			if r.model.Release(); d.used != before {
				t.Errorf("%v, stopped in %q: %d bytes stay on the device", kind, stop, d.used-before)
			}
			r.close()
		}
	}
}

// What would be caught: baselines that need curvature they do not use, or that change weights that stay.
func TestBaselines(t *testing.T) {
	dir, text := tiny(t, "tiny-opt")
	for _, kind := range []curvature.Kind{curvature.KFAC, curvature.Activations, curvature.Identity} {
		o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
		o.Cost, o.Curvature, o.Update = prune.OBD, kind, prune.None
		r, err := pruneTiny(t, context.Background(), o, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		if (r.Shots[0].PredictedIncrease == nil) != (kind != curvature.KFAC) {
			t.Errorf("%v: predicted %v", kind, r.Shots[0].PredictedIncrease)
		}
		dense, err := checkpoint.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		pruned, err := checkpoint.Open(o.Output)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range dense.Names() {
			n := 1
			for _, d := range dense.Shape(name) {
				n *= d
			}
			a, b := make([]float32, n), make([]float32, n)
			if err := errors.Join(dense.Read(name, a), pruned.Read(name, b)); err != nil {
				t.Fatal(err)
			}
			for i := range a {
				if b[i] != 0 && b[i] != a[i] {
					t.Fatalf("%v: %s[%d] was %v and is %v", kind, name, i, a[i], b[i])
				}
			}
		}
		dense.Close()
		pruned.Close()
	}
}

// What would be caught: a result that depends on the number of processors' scheduling, or on anything but the options.
func TestSameBitsTwice(t *testing.T) {
	dir, text := tiny(t, "tiny-qwen3")
	var first []byte
	for range 2 {
		o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
		if _, err := pruneTiny(t, context.Background(), o, &silent{}); err != nil {
			t.Fatal(err)
		}
		b := weightsOf(t, o.Output)
		if first != nil && !bytes.Equal(first, b) {
			t.Error("two runs with the same options differ")
		}
		first = b
	}
}

// What would be caught: a wrong request that does some work first, that leaves something behind, or whose sentence does not
// say what to do.
func TestRequests(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	empty := filepath.Join(t.TempDir(), "empty.txt")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, want string
		change     func(*Options)
	}{
		{"target 0", "between 0 and 1", func(o *Options) { o.Target = 0 }},
		{"target 1", "between 0 and 1", func(o *Options) { o.Target = 1 }},
		{"target NaN", "between 0 and 1", func(o *Options) { o.Target = math.NaN() }},
		{"no shots", "--shots is 0", func(o *Options) { o.Shots = 0 }},
		{"step limit", "--step-limit", func(o *Options) { o.StepLimit = 0 }},
		{"damping without end", "--damp-g is +Inf", func(o *Options) { x := math.Inf(1); o.DampG = &x }},
		{"a limit without end", "--max-loss is +Inf", func(o *Options) { o.MaxLoss = math.Inf(1) }},
		{"no samples", "--samples", func(o *Options) { o.Samples = 0 }},
		{"too many samples", "windows", func(o *Options) { o.Samples = 1000 }},
		{"window of one token", "--length is 1", func(o *Options) { o.Length = 1 }},
		{"window beyond the positions", "positions for 64", func(o *Options) { o.Length = 65 }},
		{"negative damping", "--damp-g", func(o *Options) { o.DampG = new(-1.) }},
		{"NaN damping", "--damp-a", func(o *Options) { o.DampA = new(math.NaN()) }},
		{"no output", "-o DIR", func(o *Options) { o.Output = "" }},
		{"output in use", "--force", func(o *Options) { o.Output = t.TempDir() }},
		{"the model as output", "a source is not replaced", func(o *Options) { o.Output = dir }},
		{"no such model", "no such file", func(o *Options) { o.Model = dir + "x" }},
		{"no such text", "no such file", func(o *Options) { o.Text = []string{text + "x"} }},
		{"empty text", "empty.txt", func(o *Options) { o.Text = []string{empty} }},
		{"magnitude with update", "--update none", func(o *Options) { o.Curvature = curvature.Identity }},
	} {
		t.Run(test.name, func(t *testing.T) {
			parent := t.TempDir()
			o := tinyOptions(dir, text, filepath.Join(parent, "out"))
			test.change(&o)
			_, err := pruneTiny(t, context.Background(), o, &silent{})
			var request *RequestError
			if !errors.As(err, &request) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want a RequestError with %q", err, test.want)
			}
			if left, _ := os.ReadDir(parent); len(left) > 0 {
				t.Errorf("%s was left behind", left[0].Name())
			}
		})
	}
}
