package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/internal/golden"
	"surgeon/engine/tasks"
)

// harnessCase is what lm-evaluation-harness makes of the two files of items with one model and tokenizer.
type harnessCase struct {
	Model, Tokenizer, Precision string
	Files                       map[string]struct {
		LogLikelihoods [][]float64
		Right          []float64
		RightNorm      []float64 `json:"right_norm"`
		Acc            float64
		AccStderr      float64 `json:"acc_stderr"`
		AccNorm        float64 `json:"acc_norm"`
		AccNormStderr  float64 `json:"acc_norm_stderr"`
	}
}

// items is a file of testdata/zero-shot.
func items(name string) string { return filepath.Join(golden.Dir("zero-shot"), name) }

// zeroShotModel makes a directory with a tiny model and a tokenizer of testdata/zero-shot.
func zeroShotModel(t testing.TB, model, tokenizer string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), model)
	for to, from := range map[string]string{
		"config.json": filepath.Join(golden.Dir(model), "config.json"), "model.safetensors": filepath.Join(golden.Dir(model), "model.safetensors"),
		"tokenizer.json": items("tokenizer-" + tokenizer + ".json"), "tokenizer_config.json": items("tokenizer-" + tokenizer + "-config.json"),
	} {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(dir, 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// zeroShotOptions evaluate both files of items.
func zeroShotOptions(model, precision string, batch int) EvalOptions {
	return EvalOptions{Model: model, Tasks: []string{items("spaced.jsonl"), items("bare.jsonl")}, Batch: batch, Precision: precision, Version: "test"}
}

func evaluateTiny(t testing.TB, ctx context.Context, o EvalOptions, w Watcher) (Evaluation, error) {
	t.Helper()
	dev := cpu.Open()
	defer dev.Close()
	return Evaluate(ctx, dev, o, w)
}

// recordsOf are the lines of a results file behind the first, by task and line.
func recordsOf(t testing.TB, path string) map[string]map[int]tasks.Record {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[int]tasks.Record{}
	for i, line := range bytes.Split(bytes.TrimSpace(data), []byte("\n")) {
		var r tasks.Record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			continue
		}
		if all[r.Task] == nil {
			all[r.Task] = map[int]tasks.Record{}
		}
		all[r.Task][r.Line] = r
	}
	return all
}

// What would be caught: a log-likelihood that is not what lm-evaluation-harness gives, for any reason: white space, special
// tokens, a token across the boundary, an empty context, truncation, padding, the order of requests; and an accuracy or an
// error of it that is not the harness's, characters counted otherwise or a tie broken otherwise.
func TestHarness(t *testing.T) {
	data, err := os.ReadFile(items("harness.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []harnessCase
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 4 {
		t.Fatalf("%d cases", len(cases))
	}
	limit := map[string]float64{"float64": 1e-9, "float32": 1e-6} // relative; a sum of up to 65 terms, of which the harness's is in the model's type
	for _, c := range cases {
		for _, batch := range []int{0, 3, 64} {
			o := zeroShotOptions(zeroShotModel(t, c.Model, c.Tokenizer), c.Precision, batch)
			o.Results = filepath.Join(t.TempDir(), "results.jsonl")
			e, err := evaluateTiny(t, context.Background(), o, &silent{})
			if err != nil {
				t.Fatal(err)
			}
			records := recordsOf(t, o.Results)
			if len(e.Tasks) != 2 || e.Texts != nil {
				t.Fatalf("%+v", e)
			}
			for _, got := range e.Tasks {
				want := c.Files[got.Task]
				if len(want.LogLikelihoods) != got.Items || len(records[got.Task]) != got.Items || got.Items == 0 {
					t.Fatalf("%s: %d items, %d records, want %d", got.Task, got.Items, len(records[got.Task]), len(want.LogLikelihoods))
				}
				for i, lls := range want.LogLikelihoods {
					r := records[got.Task][i+1]
					if e := golden.Error(r.LogLikelihoods, lls); !(e <= limit[c.Precision]) {
						t.Errorf("%s, %s, %s, batch %d: %s, line %d: %v, want %v (error %.2g)", c.Model, c.Tokenizer, c.Precision, batch, got.Task, i+1, r.LogLikelihoods, lls, e)
					}
					if (r.Pick == r.Answer) != (want.Right[i] == 1) || (r.PickNorm == r.Answer) != (want.RightNorm[i] == 1) {
						t.Errorf("%s, %s, batch %d: %s, line %d: picks %d and %d of %v, answer %d, want right %v and %v", c.Model, c.Tokenizer, batch, got.Task, i+1,
							r.Pick, r.PickNorm, r.LogLikelihoods, r.Answer, want.Right[i], want.RightNorm[i])
					}
				}
				if got.Accuracy != want.Acc || got.AccuracyNorm != want.AccNorm || math.Abs(*got.AccuracyError-want.AccStderr) > 1e-15 || math.Abs(*got.AccuracyNormError-want.AccNormStderr) > 1e-15 {
					t.Errorf("%s, %s, %s, batch %d: %+v (%v, %v), want %v ± %v, %v ± %v", c.Model, c.Tokenizer, c.Precision, batch, got, *got.AccuracyError, *got.AccuracyNormError,
						want.Acc, want.AccStderr, want.AccNorm, want.AccNormStderr)
				}
			}
		}
	}
}

// batchSensitive is a device whose losses depend on what is computed together, as those of a fast matrix product do.
type batchSensitive struct{ device.Device }

func (d batchSensitive) CrossEntropy(logits device.Tensor, targets []int32, grad bool, losses device.Tensor) {
	d.Device.CrossEntropy(logits, targets, grad, losses)
	values := device.DownloadSlice[float32](d, losses)
	for i := range values {
		if targets[i] >= 0 {
			values[i] += float32(logits.Rows) / 1024
		}
	}
	device.UploadSlice(d, values, losses)
}

// What would be caught: an evaluation that is stopped after any step and goes on, alone or more than once, to other results
// than one that was not, that measures again what it has, or that leaves another file.
func TestResumedEvaluation(t *testing.T) {
	evaluate := func(ctx context.Context, o EvalOptions, w Watcher) (Evaluation, error) {
		dev := batchSensitive{cpu.Open()}
		defer dev.Close()
		return Evaluate(ctx, dev, o, w)
	}
	for _, batch := range []int{1, 24} {
		o := zeroShotOptions(zeroShotModel(t, "tiny-llama", "bos"), "float32", batch)
		o.Results = filepath.Join(t.TempDir(), "results.jsonl")
		steps := 0
		want, err := evaluate(context.Background(), o, &silent{onStep: func(int) { steps++ }})
		if err != nil {
			t.Fatal(err)
		}
		whole, err := os.ReadFile(o.Results)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(o.Results); err != nil {
			t.Fatal(err)
		}
		// Stopped after each step in turn, going on with what the stops before it have left; the last step is the end.
		for stop := 1; stop < steps; stop++ {
			ctx, cancel := context.WithCancel(context.Background())
			n := 0
			_, err := evaluate(ctx, o, &silent{onStep: func(int) {
				if n++; n == stop {
					cancel()
				}
			}})
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("batch %d: stopped after step %d of %d: %v", batch, stop, steps, err)
			}
			left, err := os.ReadFile(o.Results)
			if err != nil || !bytes.HasPrefix(whole, left) || len(left) == len(whole) {
				t.Fatalf("batch %d: stopped after step %d of %d the file has %d bytes and is no beginning of the whole: %v", batch, stop, steps, len(left), err)
			}
		}
		w := &silent{}
		got, err := evaluate(context.Background(), o, w)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("batch %d: %+v, %v, want %+v", batch, got, err, want)
		}
		if len(w.said) != 1 || !strings.Contains(w.said[0], "going on with "+o.Results) {
			t.Errorf("said %q", w.said)
		}
		if again, _ := os.ReadFile(o.Results); !bytes.Equal(again, whole) {
			t.Errorf("batch %d: the file differs", batch)
		}
		// Killed in the middle of a write: a group with a torn line, or some of its lines missing, is measured again.
		for _, n := range cuts(whole) {
			if err := os.WriteFile(o.Results, whole[:n], 0o644); err != nil {
				t.Fatal(err)
			}
			w := &silent{}
			got, err := evaluate(context.Background(), o, w)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("batch %d: cut to %d bytes: %+v, %v, want %+v", batch, n, got, err, want)
			}
			if torn := whole[n-1] != '\n'; torn != (len(w.warnings) == 1) {
				t.Errorf("batch %d: cut to %d bytes: warnings %q", batch, n, w.warnings)
			}
			if again, _ := os.ReadFile(o.Results); !bytes.Equal(again, whole) {
				t.Errorf("batch %d: cut to %d bytes: the file differs", batch, n)
			}
		}
	}
}

// cuts are places to cut a results file at: in its first line, and behind, before and in the middle of others.
func cuts(whole []byte) []int {
	all := []int{7}
	for at, b := range whole {
		if b == '\n' {
			all = append(all, at, at+1)
		}
	}
	return append(all[:9], append(all[len(all)/2:len(all)/2+9], len(whole)-10, len(whole))...)
}

// What would be caught: figures that are taken from the model where the file has them, or from a file of another model, task,
// tokenizer, precision, batch or program.
func TestResultsIdentity(t *testing.T) {
	dir := zeroShotModel(t, "tiny-llama", "bos")
	o := zeroShotOptions(dir, "float32", 1)
	o.Results = filepath.Join(t.TempDir(), "results.jsonl")
	if _, err := evaluateTiny(t, context.Background(), o, &silent{}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(o.Results)
	if err != nil {
		t.Fatal(err)
	}
	// All of the answers by a file that says so.
	var lines []string
	for i, line := range strings.Split(strings.TrimSpace(string(whole)), "\n") {
		if i > 0 {
			var r tasks.Record
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			for k := range r.LogLikelihoods {
				if r.LogLikelihoods[k] = -1e6; k == r.Answer {
					r.LogLikelihoods[k] = -1
				}
			}
			b, _ := json.Marshal(r)
			line = string(b)
		}
		lines = append(lines, line+"\n")
	}
	if err := os.WriteFile(o.Results, []byte(strings.Join(lines, "")), 0o644); err != nil {
		t.Fatal(err)
	}
	e, err := evaluateTiny(t, context.Background(), o, &silent{})
	if err != nil || e.Tasks[0].Accuracy != 1 || e.Tasks[1].AccuracyNorm != 1 || *e.Tasks[0].AccuracyError != 0 {
		t.Errorf("%+v, %v", e, err)
	}
	for want, change := range map[string]func(*EvalOptions){
		"(model sha256: ":                         func(o *EvalOptions) { o.Model = zeroShotModel(t, "tiny-opt", "bos") },
		"(prefix token: 102 there, 103 here; tok": func(o *EvalOptions) { o.Model = zeroShotModel(t, "tiny-llama", "plain") },
		"(--precision: float32 there, ":           func(o *EvalOptions) { o.Precision = "float64" },
		"(--batch: 1 there, 2 here)":              func(o *EvalOptions) { o.Batch = 2 },
		"(program: test there, later here)":       func(o *EvalOptions) { o.Version = "later" },
		"(task bare sha256: ":                     func(o *EvalOptions) { o.Tasks = o.Tasks[:1] },
	} {
		with := o
		change(&with)
		var request *RequestError
		if _, err := evaluateTiny(t, context.Background(), with, &silent{}); !errors.As(err, &request) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// What would be caught: a text and tasks that disturb each other, or share a figure.
func TestTextAndTasks(t *testing.T) {
	dir := zeroShotModel(t, "tiny-llama", "bos")
	text := filepath.Join(t.TempDir(), "text.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("the stone and the water in the wind. ", 40)), 0o644); err != nil {
		t.Fatal(err)
	}
	both := zeroShotOptions(dir, "float64", 0)
	alone := both
	both.Text, both.Length = []string{text}, 16
	both.Tasks = []string{items("s*.jsonl"), items("*.jsonl")} // each once
	only := both
	only.Tasks = nil
	var got [3]Evaluation
	for i, o := range []EvalOptions{both, alone, only} {
		var err error
		if got[i], err = evaluateTiny(t, context.Background(), o, &silent{}); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(got[0].Tasks, got[1].Tasks) || !reflect.DeepEqual(got[0].Texts, got[2].Texts) || got[2].Tasks != nil {
		t.Errorf("together %+v, alone %+v and %+v", got[0], got[1], got[2])
	}
}

// What would be caught: a wrong request that is found only after the model was loaded, or not with its file and line; a
// results file that is made for it.
func TestRefusedTasks(t *testing.T) {
	dir := zeroShotModel(t, "tiny-llama", "plain")
	folder := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const good = `{"context": "the", "choices": [" a", " b"], "answer": 1}` + "\n"
	one := file("one.jsonl", good)
	bare := zeroShotModel(t, "tiny-llama", "plain")
	if err := os.Remove(filepath.Join(bare, "tokenizer_config.json")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*EvalOptions)
		want   string
	}{
		"no file":  {func(o *EvalOptions) { o.Tasks = []string{filepath.Join(folder, "nowhere.jsonl")} }, "no such file"},
		"bad line": {func(o *EvalOptions) { o.Tasks = []string{one, file("two.jsonl", good+"\n{}\n")} }, filepath.Join(folder, "two.jsonl") + `: line 3: there is no field "context"`},
		"no items": {func(o *EvalOptions) { o.Tasks = []string{file("empty.jsonl", "\n")} }, "empty.jsonl: there are no items"},
		"no token": {func(o *EvalOptions) {
			o.Tasks = []string{file("white.jsonl", good+`{"context": " ", "choices": ["a", "b"], "answer": 1}`)}
		}, "white.jsonl: line 2, choice 0: the context is nothing but white space"},
		"too long": {func(o *EvalOptions) {
			o.Tasks = []string{file("long.jsonl", `{"context": "a", "choices": ["a", "`+strings.Repeat("%", 65)+`"], "answer": 1}`)}
		}, "long.jsonl: line 1, choice 1: the choice has 65 tokens, and the model has positions for 64"},
		"no match":    {func(o *EvalOptions) { o.Tasks = []string{filepath.Join(folder, "*.none")} }, `tasks: pattern "`},
		"one name":    {func(o *EvalOptions) { o.Tasks = []string{one, file("other/one.jsonl", good)} }, "are both task one; give one of the files another name"},
		"no prefix":   {func(o *EvalOptions) { o.Model, o.Tasks = bare, []string{items("bare.jsonl")} }, "bare.jsonl: line 6, choice 0: the context is empty, and the model's tokenizer names no token"},
		"nothing":     {func(o *EvalOptions) { o.Tasks, o.Results = nil, "" }, "there is nothing to measure; give --text"},
		"no text":     {func(o *EvalOptions) { o.Length = 8 }, "--length, --windows, --text-skip and --text-limit say how a text is cut, and none is given"},
		"no tasks":    {func(o *EvalOptions) { o.Tasks, o.Text = nil, []string{one} }, "is for the results of tasks, and none is given"},
		"a task file": {func(o *EvalOptions) { o.Results = one }, "one.jsonl: it is there already and holds something else"},
		"no folder":   {func(o *EvalOptions) { o.Results = filepath.Join(folder, "no", "r.jsonl") }, "there is no directory"},
	} {
		o := EvalOptions{Model: dir, Tasks: []string{one}, Results: filepath.Join(folder, "results.jsonl"), Precision: "float32"}
		c.change(&o)
		dev := cpu.Open()
		var request *RequestError
		if _, err := Evaluate(context.Background(), dev, o, &silent{}); !errors.As(err, &request) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if peak := dev.Memory().Peak; peak != 0 {
			t.Errorf("%s: %d bytes were on the device", name, peak)
		}
		dev.Close()
		if _, err := os.Stat(filepath.Join(folder, "results.jsonl")); !os.IsNotExist(err) {
			t.Errorf("%s: there is a results file", name)
		}
	}
}

// What would be caught: a failure of the device, or a model that overflows, that is told without its place, and figures that
// are written nevertheless.
func TestFailedTasks(t *testing.T) {
	lost := errors.New("Gemm: error 719, the device is lost")
	o := zeroShotOptions(zeroShotModel(t, "tiny-llama", "bos"), "float32", 1)
	d := &failing{Device: cpu.Open()}
	defer d.Close()
	n := 0
	_, err := Evaluate(context.Background(), d, o, &silent{onStep: func(int) {
		if n++; n == 3 {
			d.failure = lost
		}
	}})
	if !errors.Is(err, lost) || !strings.HasPrefix(err.Error(), "task spaced: line ") {
		t.Errorf("got %v", err)
	}
}
