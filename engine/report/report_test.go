package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample is a report with something in every field.
func sample() *Report {
	predicted, limit := 0.0312, 700.
	return &Report{
		Program:   Program{Version: "0.1.0", SHA256: "e1f0", Commit: "0123456789abcdef", Modified: true, Go: "go1.26.0", Tags: "openblas"},
		Machine:   Machine{OS: "linux/amd64", CPU: "Example CPU @ 2.00GHz", Cores: 2, MemoryBytes: 16 << 30, Device: "cpu (gonum, 2 threads)"},
		Command:   []string{"surgeon", "prune", "models/tiny llama", "--text", "calibration.txt", "--target", "0.3", "--shots", "2", "-o", "it's pruned"},
		Run:       "5e1f",
		Options:   map[string]any{"target": 0.3, "shots": 2, "text": []string{"calibration.txt"}},
		Seeds:     map[string]uint64{"windows": 100, "labels": math.MaxUint64},
		Structure: "rowcol",
		Started:   time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC), Seconds: 93.5,
		ResumedFrom: []int{1},
		Warnings:    []string{"calibration has 12 288 tokens\nfor 6 144 inputs"},
		Model:       Model{Path: "models/tiny llama", Format: "safetensors", Family: "llama", SHA256: "aa11", Parameters: 1234567, Prunable: 1000000},
		Data: Data{Files: []File{{Name: "calibration.txt", SHA256: "bb22", Bytes: 1121681}, {Name: "more|text`s.jsonl", SHA256: "cc33", Bytes: 12}},
			Tokens: 280420, Windows: 24, Length: 512, HeldOut: 3, Batch: 4},
		Dense: Dense{HeldOutLoss: 3.1415},
		Shots: []Shot{
			{Number: 1, Target: 0.15, Reached: 0.1499, Reduction: 0.1214, Threshold: new(1.234e-5), LossBefore: 3.1415, LossAfter: 3.18,
				PredictedIncrease: &predicted, Seconds: map[string]float64{"curvature": 30.25, "costs": 4.5, "update": 2.25}, PeakBytes: 1 << 30},
			{Number: 2, Target: 0.3, Reached: 0.2999, Reduction: 0.2429, Threshold: new(4.5e-5), LossBefore: 3.18, LossAfter: 3.75,
				Warning:        "the loss rose by 0.57, predicted were 0.03 | look",
				DampingsRaised: []Damping{{Layer: "model.layers.0.self_attn.q_proj", Side: "G", Share: 0.1}},
				Seconds:        map[string]float64{"curvature": 61, "costs": 4.75}, PeakBytes: 1<<30 + 5},
		},
		Layers: []Layer{{Name: "model.layers.0.self_attn.q_proj", Rows: 4, Cols: 3, KeptRows: []int{0, 2, 3}, KeptCols: nil}},
		Final:  Final{Sparsity: 0.3122, Reduction: 0.2429, HeldOutLoss: 3.7512, StoppedEarly: "shot 3 would bring the held-out loss above --max-loss"},
		Evaluations: []Evaluation{
			NewEvaluation("dense", "WikiText-2 test", false, 2048, 166, math.Log(5.47)),
			NewEvaluation("pruned", "calibration.txt", true, 512, 50, math.Log(31.25)),
		},
		PeakResidentBytes: 3 << 29, PeakDeviceBytes: 0, PlannedDeviceBytes: 1 << 28,
		GPU: &GPU{Name: "Example GPU", PCI: "0000:1b:00.0", Driver: "580.95.05", CUDA: "13.0", MemoryBytes: 80 << 30, PowerLimit: &limit, Samples: 90,
			Power: &Range{Mean: 612.25, Min: 75, Max: 701.5}, SMClock: &Range{Mean: 1755, Min: 345, Max: 1980}, MemoryClock: &Range{Mean: 2619, Min: 2619, Max: 2619},
			Utilisation: &Range{Mean: 97, Min: 0, Max: 100}, MemoryUsed: nil, Temperature: &Range{Mean: 61, Min: 34, Max: 66},
			SlowedDown: map[string]float64{"power limit": 0.3}},
	}
}

// golden compares with a file in testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s differs (- as it was, + as it is):\n%s", path, d)
	}
}

// Catches a field of report.json that is renamed or dropped, on which pages and plots rely.
func TestGoldenReport(t *testing.T) {
	b, err := sample().JSON()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", b)
}

// Catches a card that loses a figure, or the words without which a figure misleads: data, window length and number of
// windows of a perplexity, and that the zeros are in place.
func TestGoldenCard(t *testing.T) {
	card := sample().Card()
	golden(t, "card.md", card)
	for _, part := range []string{"| pruned | calibration.txt \\* | 512 | 50 |", "zeros in place", "the files are not smaller", "stopped early", "another 1.23 % of the weights", "the model has a loss of 3.7512"} {
		if !strings.Contains(string(card), part) {
			t.Errorf("the card lacks %q", part)
		}
	}
	// What comes from files and paths must not break out of tables and code marks.
	for _, l := range strings.Split(string(card), "\n") {
		if strings.Count(l, "`")%2 != 0 && !strings.HasPrefix(l, "```") {
			t.Errorf("an odd number of code marks: %s", l)
		}
	}
}

// Catches a card that panics or claims something where a run measured little.
func TestCardOfLittle(t *testing.T) {
	card := string((&Report{Shots: []Shot{{Number: 1}}}).Card())
	for _, part := range []string{"No perplexity", "unknown processor", "| – |"} {
		if !strings.Contains(card, part) {
			t.Errorf("the card lacks %q", part)
		}
	}
}

// Catches a report that does not come back from its file as it was: the journal keeps it across a stop.
func TestRoundTrip(t *testing.T) {
	want := sample()
	want.Layers[0].KeptCols = []int{}
	want.Shots[0].DampingsRaised = []Damping{}
	path := filepath.Join(t.TempDir(), "report.json")
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := &Report{}
	if err := json.Unmarshal(b, got); err != nil {
		t.Fatal(err)
	}
	got.Options, want.Options = nil, nil // any: comes back as a map
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Catches a NaN or an infinity that is dropped, written as something else, or refused without its name: every float that a
// report holds is made NaN in turn.
func TestNotFinite(t *testing.T) {
	figures := 0
	var spoil func(v reflect.Value, r *Report)
	spoil = func(v reflect.Value, r *Report) {
		switch v.Kind() {
		case reflect.Float64:
			figures++
			for _, x := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
				old := v.Float()
				v.SetFloat(x)
				if _, err := r.JSON(); err == nil || !strings.Contains(err.Error(), " is ") {
					t.Errorf("figure %d as %v: %v", figures, x, err)
				}
				v.SetFloat(old)
			}
		case reflect.Pointer:
			if !v.IsNil() {
				spoil(v.Elem(), r)
			}
		case reflect.Struct:
			for i := range v.NumField() {
				if v.Type().Field(i).IsExported() {
					spoil(v.Field(i), r)
				}
			}
		case reflect.Slice:
			for i := range v.Len() {
				spoil(v.Index(i), r)
			}
		}
	}
	r := sample()
	spoil(reflect.ValueOf(r), r)
	if figures < 20 {
		t.Errorf("only %d figures were tried", figures)
	}
	named := []struct {
		spoil func(*Report)
		name  string
	}{
		{func(r *Report) { r.Shots[1].LossAfter = math.NaN() }, "shots[1].held_out_loss_after is NaN"},
		{func(r *Report) { *r.Shots[0].PredictedIncrease = math.Inf(1) }, "shots[0].predicted_increase is +Inf"},
		{func(r *Report) { r.Shots[1].Seconds["costs"] = math.NaN() }, "shots[1].seconds.costs is NaN"},
		{func(r *Report) { r.Options = struct{ DampG float32 }{float32(math.NaN())} }, "options.DampG is NaN"},
		{func(r *Report) { r.Evaluations[0] = NewEvaluation("dense", "x", false, 8, 1, 1e4) }, "evaluations[0].perplexity is +Inf"},
	}
	for _, n := range named {
		r := sample()
		n.spoil(r)
		path := filepath.Join(t.TempDir(), "report.json")
		err := r.Write(path)
		if err == nil || !strings.Contains(err.Error(), n.name) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v, want %q", err, n.name)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s: a report was written all the same", n.name)
		}
	}
}

// Catches a failed write that destroys the report that was there.
func TestWriteReplacesAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	r := sample()
	if err := r.Write(path); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r.Final.HeldOutLoss = math.NaN()
	if err := r.Write(path); err == nil {
		t.Fatal("a NaN was written")
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the report that was there is gone: %v", err)
	}
	if err := r.Write(filepath.Join(path, "below", "report.json")); err == nil {
		t.Error("a file in place of a directory is written into")
	}
}

// Catches lists that are joined inside a string or in the wrong place, so that report.json says something else.
func TestJoinNumbers(t *testing.T) {
	cases := []struct {
		value any
		want  string
	}{
		{[]int{}, "[]"},
		{[]int{1}, "[1]"},
		{[]float64{1, -2.5, 1e-9}, "[1, -2.5, 1e-9]"},
		{[]string{"[1,\n  2]", `\"[3, 4`, `\`}, "[\n  \"[1,\\n  2]\",\n  \"\\\\\\\"[3, 4\",\n  \"\\\\\"\n]"},
		{[][]int{{1, 2}, {}}, "[\n  [1, 2],\n  []\n]"},
		{map[string]any{"a [ 1": []any{1, nil}}, "{\n  \"a [ 1\": [\n    1,\n    null\n  ]\n}"},
	}
	for _, c := range cases {
		indented, err := json.MarshalIndent(c.value, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got := string(joinNumbers(indented))
		if got != c.want {
			t.Errorf("%v:\n%s\nwant\n%s", c.value, got, c.want)
		}
		var a, b any
		if json.Unmarshal(indented, &a) != nil || json.Unmarshal([]byte(got), &b) != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("%v says something else once joined: %s", c.value, got)
		}
	}
}

// Catches a card that takes single weights for rows.
func TestCardNamesTheStructure(t *testing.T) {
	for structure, want := range map[string][]string{
		"element": {"- unstructured-pruning\n", "those single weights of the linear layers"},
		"2:4":     {"- semi-structured-pruning\n", "those 2 of every 4 consecutive inputs in the rows of the linear layers"},
	} {
		r := sample()
		r.Structure = structure
		for _, words := range want {
			if card := string(r.Card()); !strings.Contains(card, words) {
				t.Errorf("%s: the card lacks %q", structure, words)
			}
		}
	}
}

// What would be caught: a sum of times whose last digits differ from reading to reading, as the order in a map does.
func TestTotalSeconds(t *testing.T) {
	s := Shot{Seconds: map[string]float64{"check": 1e16, "costs": 1, "curvature": -1e16, "journal": 3, "threshold": 0.1, "update": 7}}
	for range 100 {
		if got := s.TotalSeconds(); got != 10.1 { // 1e16 + 1 is rounded to 1e16
			t.Fatalf("%v, want 10.1", got)
		}
	}
}
