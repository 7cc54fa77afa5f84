package engine

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"surgeon/engine/device/cpu"
	"surgeon/engine/text"
)

// What would be caught: an evaluation of text that calibrated the model and does not say so, because it is more of that text
// or less or packed otherwise; one that says so of other text.
func TestCommon(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a, b, c := file("a.txt", "the first text, of some length"), file("b.txt", "another one, of another length"), file("c.txt", "a third, that is nowhere else")
	lines := file("a.jsonl", `{"text": "the first text, of some length"}`+"\n")
	read := func(skip, limit int64, files ...string) *text.Corpus {
		x, err := text.ReadCorpus(context.Background(), files)
		if err == nil && (skip > 0 || limit > 0) {
			x, err = x.Cut(skip, limit)
		}
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for _, c := range []struct {
		name               string
		calibration, whole *text.Corpus
		want               bool
	}{
		{"the same", read(0, 0, a), read(0, 0, a), true},
		{"the beginning", read(0, 10, a), read(0, 0, a), true},
		{"the end", read(10, 0, a), read(0, 0, a), true},
		{"one of two", read(0, 0, a, b), read(0, 0, a), true},
		{"one of two each", read(0, 0, a, b), read(0, 0, b, c), true},
		{"two, of which one", read(0, 0, b), read(0, 0, a, b), true},
		{"the beginning, packed otherwise", read(0, 10, lines), read(0, 0, a), true},
		{"one of two, packed otherwise", read(0, 0, lines, b), read(0, 0, a), true},
		{"others", read(0, 0, a, b), read(0, 0, c), false},
		{"one of two, left out by the limit", read(0, 10, a, b), read(0, 0, b), false},
		{"one of two, skipped", read(40, 0, a, b), read(0, 0, a), false},
		{"the beginning of another", read(0, 10, a), read(0, 0, b), false},
	} {
		if got := common(c.calibration, c.whole); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// What would be caught: a report that says another text was measured on than the one that calibrated, or not which one; an
// output that cannot be written because nothing is there yet to put it into.
func TestEvalOfCutText(t *testing.T) {
	model, prose := tiny(t, "tiny-llama")
	code := codeText(t)
	dir := t.TempDir()
	o := tinyOptions(model, prose, filepath.Join(dir, "new", "deep", "out"))
	o.Work = filepath.Join(dir, "work")
	o.TextLimit, o.Shots, o.Target = 2000, 1, 0.1
	o.Eval = []string{"prose=" + prose, "code=" + code}
	r, err := pruneTiny(t, context.Background(), o, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false, true, false} { // dense, then pruned
		whole, err := text.ReadCorpus(context.Background(), []string{[]string{prose, code}[i%2]})
		if err != nil {
			t.Fatal(err)
		}
		if e := r.Evaluations[i]; e.Calibration != want || e.TextSHA256 != whole.SHA256 {
			t.Errorf("%s %s: calibration text %v, SHA-256 %s, want %v, %s", e.Of, e.Name, e.Calibration, e.TextSHA256, want, whole.SHA256)
		}
	}
	// By itself, later: as the report beside the model tells.
	for _, c := range []struct {
		model, text string
		skip, limit int64
		want        bool
	}{
		{o.Output, prose, 0, 0, true}, {o.Output, prose, 1000, 0, true}, {o.Output, prose, 2000, 0, false}, {o.Output, code, 0, 0, false}, {model, prose, 0, 0, false},
	} {
		e, err := Evaluate(context.Background(), cpu.Open(), EvalOptions{Model: c.model, Text: []string{c.text}, TextSkip: c.skip, TextLimit: c.limit, Length: 32, Windows: 1, Precision: "float32"}, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Texts[0].Calibration; got != c.want {
			t.Errorf("%+v: calibration text %v", c, got)
		}
	}
}
