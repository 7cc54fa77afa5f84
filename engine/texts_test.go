package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"surgeon/engine/device/cpu"
	"surgeon/engine/report"
	"surgeon/engine/text"
)

// codeText writes a second text for a tiny model, which looks like another language: a JSON line a function.
func codeText(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for i := range 120 {
		fmt.Fprintf(&b, `{"text": "func f%d(x) { return x * %d + y; }"}`+"\n", i, 7*i%11)
	}
	path := filepath.Join(t.TempDir(), "code.jsonl")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// What would be caught: values of one name that are torn apart or reordered, a path that is taken for a name, a mixture
// that passes or is refused without saying which two values disagree.
func TestSplitNames(t *testing.T) {
	for _, c := range []struct {
		values []string
		want   []namedFiles
		err    string
	}{
		{[]string{"a.txt", "b.txt"}, []namedFiles{{"", []string{"a.txt", "b.txt"}}}, ""},
		{[]string{"en=a.txt", "x-1_Y=b=c.txt", "en=d/*.txt"}, []namedFiles{{"en", []string{"a.txt", "d/*.txt"}}, {"x-1_Y", []string{"b=c.txt"}}}, ""},
		{[]string{"./en=a.txt", "d/e=f", "=g", "é=h"}, []namedFiles{{"", []string{"./en=a.txt", "d/e=f", "=g", "é=h"}}}, ""},
		{nil, []namedFiles{{}}, ""},
		{[]string{"en=a.txt", "b.txt"}, nil, "--text en=a.txt has a name and --text b.txt has none"},
		{[]string{"b.txt", "en=a.txt"}, nil, "--text en=a.txt has a name and --text b.txt has none"},
		{[]string{"en="}, nil, "--text en= names no file"},
	} {
		got, err := splitNames("text", c.values)
		var request *RequestError
		switch {
		case c.err == "" && (err != nil || !reflect.DeepEqual(got, c.want)):
			t.Errorf("%q: %v, %v; want %v", c.values, got, err, c.want)
		case c.err != "" && (!errors.As(err, &request) || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%q: %v, want %q", c.values, err, c.err)
		}
	}
}

// What would be caught: a text that gives more windows than another, a remainder that goes to the last ones, a draw from one
// text that depends on the other, a window that is in both lists, an order that is not that of the texts.
func TestNamedWindows(t *testing.T) {
	ids := func(n, from int) []int32 {
		x := make([]int32, n)
		for i := range x {
			x[i] = int32(from + i)
		}
		return x
	}
	corpus := func(hash string) *text.Corpus { return &text.Corpus{Files: []text.File{{Path: hash, SHA256: hash}}} }
	en := namedText{name: "en", corpus: corpus("e"), ids: ids(400, 0)}
	code := namedText{name: "code", corpus: corpus("c"), ids: ids(90, 1000)}
	fr := namedText{name: "fr", corpus: corpus("f"), ids: ids(200, 2000)}
	in := &inputs{texts: []namedText{en, code, fr}, length: 4}
	calibration, heldOut, err := in.windows(Options{Samples: 14, HeldOut: 7, Seed: 5})
	if err != nil {
		t.Fatal(err)
	}
	// 14 = 5 + 5 + 4 and 7 = 3 + 2 + 2.
	var places []int
	for _, w := range slices.Concat(calibration, heldOut) {
		places = append(places, int(w[0])/1000)
	}
	if want := []int{0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 1, 1, 2, 2}; !slices.Equal(places, want) {
		t.Errorf("windows come from the texts %v, want %v", places, want)
	}
	want, wantHeldOut, err := text.CalibrationWindows(code.ids, 4, 5, 2, 5)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(calibration[5:10], want) || !reflect.DeepEqual(heldOut[3:5], wantHeldOut) {
		t.Error("the windows of code are not those that it gives alone")
	}
	losses := in.lossesByText([]float64{1, 2, 6, 4, 5, 7, 8})
	if want := []report.TextLoss{{Text: "en", Loss: 3}, {Text: "code", Loss: 4.5}, {Text: "fr", Loss: 7.5}}; !reflect.DeepEqual(losses, want) {
		t.Errorf("losses are %v, want %v", losses, want)
	}

	in.texts[1].ids = ids(20, 1000)
	if _, _, err := in.windows(Options{Samples: 14, HeldOut: 7, Seed: 5}); err == nil || !strings.Contains(err.Error(), "text code, c: the text has 20 tokens, which fill 5 windows of 4") {
		t.Errorf("a text that is too short gives %v", err)
	}
	in.texts[1].corpus = corpus("e")
	if _, _, err := in.windows(Options{Samples: 14, HeldOut: 7, Seed: 5}); err == nil || !strings.Contains(err.Error(), "en and code both hold e;") {
		t.Errorf("a file in two texts gives %v", err)
	}
}

// What would be caught: losses by name that are missing after a shot, that do not make up the loss of all, or that a stop
// after every shot loses or changes; a run whose bits depend on a stop; perplexities without their names.
func TestNamedTexts(t *testing.T) {
	model, english := tiny(t, "tiny-llama")
	code := codeText(t)
	whole := tinyOptions(model, "", filepath.Join(t.TempDir(), "whole"))
	whole.Text = []string{"en=" + english, "code=" + code}
	whole.Eval = []string{"go=" + code, "prose=" + english}
	whole.Samples, whole.HeldOut = 13, 5 // 7 + 6 and 3 + 2
	want, err := pruneTiny(t, context.Background(), whole, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := want.Data.Texts, []report.Text{{Name: "en", Tokens: 4000, Windows: 7, HeldOut: 3}, {Name: "code", Tokens: want.Data.Tokens - 4000, Windows: 6, HeldOut: 2}}; !reflect.DeepEqual(got, want) {
		t.Errorf("texts are %v, want %v", got, want)
	}
	made := func(what string, all float64, by []report.TextLoss) {
		if len(by) != 2 || by[0].Text != "en" || by[1].Text != "code" {
			t.Fatalf("%s: losses by text are %v", what, by)
		}
		if sum := (3*by[0].Loss + 2*by[1].Loss) / 5; !(sum-all < 1e-12 && all-sum < 1e-12) || by[0].Loss == by[1].Loss {
			t.Errorf("%s: %v make up %v, and the loss of all windows is %v", what, by, sum, all)
		}
	}
	made("dense", want.Dense.HeldOutLoss, want.Dense.HeldOutLosses)
	for _, s := range want.Shots {
		made("shot", s.LossAfter, s.LossesAfter)
	}
	made("final", want.Final.HeldOutLoss, want.Final.HeldOutLosses)
	var names []string
	for _, e := range want.Evaluations {
		names = append(names, e.Of+" "+e.Name)
		if !e.Calibration {
			t.Errorf("%s %s is of a calibration text, and does not say so", e.Of, e.Name)
		}
	}
	if got := strings.Join(names, ", "); got != "dense go, dense prose, pruned go, pruned prose" {
		t.Errorf("perplexities are of %s", got)
	}

	o := whole
	o.Output = filepath.Join(t.TempDir(), "out")
	for range o.Shots {
		ctx, cancel := context.WithCancel(context.Background())
		if _, err := pruneTiny(t, ctx, o, &silent{onShot: func(report.Shot) { cancel() }}); !errors.Is(err, context.Canceled) {
			t.Fatalf("a cancelled run ended with %v", err)
		}
		for difference, texts := range map[string][]string{
			`there, "code=`: {"code=" + code, "en=" + english},
			`there, "fr=`:   {"fr=" + english, "code=" + code},
			`there, "`:      {english, code},
		} {
			other := o
			other.Text = texts
			_, err := pruneTiny(t, context.Background(), other, &silent{})
			var request *RequestError
			if !errors.As(err, &request) || !strings.Contains(err.Error(), "text sha256: ") || !strings.Contains(err.Error(), difference) {
				t.Errorf("with the texts %v the run goes on: %v", texts, err)
			}
		}
	}
	got, err := pruneTiny(t, context.Background(), o, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(weightsOf(t, o.Output), weightsOf(t, whole.Output)) {
		t.Error("stopped after every shot, the run ends in other bits")
	}
	if !reflect.DeepEqual(got.Dense, want.Dense) || !reflect.DeepEqual(got.Final, want.Final) || !reflect.DeepEqual(got.Evaluations, want.Evaluations) {
		t.Errorf("reports differ: %+v, %+v", got, want)
	}
	for i := range want.Shots {
		if !reflect.DeepEqual(got.Shots[i].LossesAfter, want.Shots[i].LossesAfter) {
			t.Errorf("shot %d: %v, %v", i+1, got.Shots[i].LossesAfter, want.Shots[i].LossesAfter)
		}
	}
	read, err := report.Read(filepath.Join(o.Output, reportName))
	if err != nil || !reflect.DeepEqual(read.Final, want.Final) || read.Data.Files[1].Text != "code" {
		t.Errorf("report.json says %+v (%v)", read, err)
	}
}

// What would be caught: a name that changes anything else than what the figures are called where there is only one.
func TestOneName(t *testing.T) {
	model, english := tiny(t, "tiny-llama")
	plain := tinyOptions(model, english, filepath.Join(t.TempDir(), "plain"))
	want, err := pruneTiny(t, context.Background(), plain, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	if want.Data.Texts != nil || want.Shots[0].LossesAfter != nil || want.Final.HeldOutLosses != nil {
		t.Error("a text without a name has losses by name")
	}
	named := plain
	named.Text, named.Output = []string{"en=" + english}, filepath.Join(t.TempDir(), "named")
	got, err := pruneTiny(t, context.Background(), named, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(weightsOf(t, plain.Output), weightsOf(t, named.Output)) {
		t.Error("the weights differ")
	}
	if by := got.Final.HeldOutLosses; len(by) != 1 || by[0].Loss != want.Final.HeldOutLoss {
		t.Errorf("the loss by name is %v, that of the run without a name %v", by, want.Final.HeldOutLoss)
	}
}

// What would be caught: an evaluation of several texts that mixes them up, leaves one out, or counts the windows of one for
// all.
func TestEvaluateNamedTexts(t *testing.T) {
	model, english := tiny(t, "tiny-llama")
	code := codeText(t)
	e := EvalOptions{Model: model, Length: 32, Batch: 1, Windows: 50, Precision: "float32"}
	evaluate := func(texts ...string) []report.Evaluation {
		t.Helper()
		e.Text = texts
		dev := cpu.Open()
		defer dev.Close()
		x, err := Evaluate(context.Background(), dev, e, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		return x.Texts
	}
	both, one, other := evaluate("en="+english, "code="+code), evaluate(english), evaluate(code)
	if len(both) != 2 || len(one) != 1 || both[0].Name != "en" || both[1].Name != "code" || one[0].Name != "" || both[1].Text != code {
		t.Fatalf("%+v and %+v", both, one)
	}
	if both[0].Loss != one[0].Loss || both[1].Loss != other[0].Loss || both[1].Windows != other[0].Windows || one[0].Loss == other[0].Loss {
		t.Errorf("together %+v, one by one %+v and %+v", both, one, other)
	}
	e.Text = []string{"en=" + english, code}
	var request *RequestError
	if _, err := Evaluate(context.Background(), cpu.Open(), e, &silent{}); !errors.As(err, &request) || !strings.Contains(err.Error(), "has a name and") {
		t.Errorf("a name for one of two texts gives %v", err)
	}
}

// What would be caught: a wrong request about named texts that is not refused, or only after work was done.
func TestNamedTextsRefuse(t *testing.T) {
	model, english := tiny(t, "tiny-llama")
	code := codeText(t)
	for _, c := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Text[1] = code }, "--text en=" + english + " has a name and --text " + code + " has none"},
		{func(o *Options) { o.Eval = []string{code, "en=" + english} }, "--eval en=" + english + " has a name and --eval " + code + " has none"},
		{func(o *Options) { o.HeldOut = 1 }, "--samples is 12 and --held-out is 1; each of the 2 named texts needs"},
		{func(o *Options) { o.Samples = 1 }, "--samples is 1 and --held-out is 4; each of the 2 named texts needs"},
		{func(o *Options) { o.Text[1] = "code=nowhere.txt" }, "text code: stat nowhere.txt"},
		{func(o *Options) { o.TextSkip = 3900 }, "text en, " + english + ": the text has 100 tokens, which fill 3 windows of 32"},
		{func(o *Options) { o.Text[1] = "code=" + english }, "--text: en and code both hold " + english},
	} {
		o := tinyOptions(model, "", filepath.Join(t.TempDir(), "out"))
		o.Text = []string{"en=" + english, "code=" + code}
		c.change(&o)
		_, err := pruneTiny(t, context.Background(), o, &silent{})
		var request *RequestError
		if !errors.As(err, &request) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	// The held-out windows that nobody asked for are enough for all names.
	o := tinyOptions(model, "", filepath.Join(t.TempDir(), "out"))
	o.Text, o.Samples, o.HeldOut = []string{"en=" + english, "code=" + code}, 4, 0
	if err := o.check(); err != nil || o.HeldOut != 2 {
		t.Errorf("%d windows are held out of 2 texts: %v", o.HeldOut, err)
	}
}
