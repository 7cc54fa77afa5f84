package main

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"surgeon/engine/compare"
	"surgeon/engine/report"
)

// twoTexts goes to a directory that tiny made, with a second text, code.jsonl.
func twoTexts(t testing.TB) {
	t.Helper()
	tiny(t)
	var b strings.Builder
	for i := range 120 {
		fmt.Fprintf(&b, `{"text": "func f%d(x) { return x * %d + y; }"}`+"\n", i, 7*i%11)
	}
	writeFile(t, "code.jsonl", b.String())
}

// namedArgs is a run on both texts.
func namedArgs(output string, more ...string) []string {
	return append([]string{"prune", "model", "--text", "en=text.txt", "--text", "code=code.jsonl", "--target", "0.3", "--shots", "2", "--samples", "13", "--length", "32", "-o", output}, more...)
}

// What would be caught: losses by text that a user of the command line, of a YAML file, of the log or of the JSON does not
// get, or that differ between them; a mixture of texts with and without names that is not a wrong request.
func TestNamedTexts(t *testing.T) {
	twoTexts(t)
	code, stdout, stderr := invoke(namedArgs("out", "--eval", "other=code.jsonl")...)
	if code != 0 {
		t.Fatal(stderr)
	}
	r, err := report.Read("out/report.json")
	if err != nil {
		t.Fatal(err)
	}
	before, after := r.Dense.HeldOutLosses, r.Final.HeldOutLosses
	for _, want := range []string{
		fmt.Sprintf("\n  en, 1 window of them: %.4f before, %.4f after;", before[0].Loss, after[0].Loss),
		fmt.Sprintf("\n  code, 1 window of them: %.4f before, %.4f after;", before[1].Loss, after[1].Loss),
		"\ndense model, other: Perplexity ", "\npruned model, other: Perplexity ",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	for _, s := range r.Shots {
		if want := fmt.Sprintf("loss_after_by_text.en=%v loss_after_by_text.code=%v", places(s.LossesAfter[0].Loss, 6), places(s.LossesAfter[1].Loss, 6)); !strings.Contains(stderr, want) {
			t.Errorf("no %q in\n%s", want, stderr)
		}
	}
	card := readFile(t, "out/README.md")
	if want := fmt.Sprintf("| code | 1 | %.4f | %.4f |", before[1].Loss, after[1].Loss); !strings.Contains(card, want) || !strings.Contains(card, "- code: `code.jsonl`") {
		t.Errorf("no %q, or not the files by name, in\n%s", want, card)
	}

	writeFile(t, "run.yaml", "model: model\ntext: [en=text.txt, code=code.jsonl]\neval: [other=code.jsonl]\ntarget: 0.3\nshots: 2\nsamples: 13\nlength: 32\noutput: yaml\n")
	code, stdout, stderr = invoke("prune", "--config", "run.yaml", "--json", "--quiet")
	var again report.Report
	if err := json.Unmarshal([]byte(stdout), &again); code != 0 || err != nil {
		t.Fatal(stderr, err)
	}
	if again.Run != r.Run || !reflect.DeepEqual(again.Shots[1].LossesAfter, r.Shots[1].LossesAfter) || !reflect.DeepEqual(again.Final, r.Final) {
		t.Errorf("the YAML file makes another run: %+v, %+v", again.Final, r.Final)
	}

	args := namedArgs("planned")
	args[0] = "plan"
	if code, stdout, _ := invoke(args...); code != 0 || !strings.Contains(stdout, "\n  en: 7 windows and 1 held out\n  code: 6 windows and 1 held out\n") {
		t.Errorf("exit code %d, the plan says\n%s", code, stdout)
	}
	code, stdout, stderr = invoke(namedArgs("never", "--text", "text.txt")...)
	if code != exitRequest || stdout != "" || !strings.Contains(stderr, "surgeon: --text en=text.txt has a name and --text text.txt has none;") {
		t.Errorf("a mixture gives exit code %d, %s%s", code, stdout, stderr)
	}
}

// What would be caught: a line below the table's row that is wider than the table, that drops a text in silence, or that is
// there where it says nothing new.
func TestLossesLine(t *testing.T) {
	var s report.Shot
	for i := range 12 {
		if line := lossesLine(s); len(line) > 80 {
			t.Errorf("%d texts: %d columns: %s", i, len(line), line)
		}
		s.LossesAfter = append(s.LossesAfter, report.TextLoss{Text: fmt.Sprintf("text%d", i), Loss: float64(i) / 3})
	}
	if got, want := lossesLine(s), "after, by text:  text0 0.0000  text1 0.3333  text2 0.6667  and 9 more"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := lossesLine(report.Shot{LossesAfter: s.LossesAfter[:2]}); got != "after, by text:  text0 0.0000  text1 0.3333" {
		t.Error(got)
	}
	if got := lossesLine(report.Shot{LossesAfter: s.LossesAfter[:1]}); got != "" {
		t.Error(got)
	}
}

// What would be caught: a comparison that swaps two runs, that does not say that they are of other texts, whose JSON lacks
// what the table says, or that needs a device; a wrong request that ends otherwise than with exit code 2.
func TestCompare(t *testing.T) {
	twoTexts(t)
	for _, args := range [][]string{namedArgs("both"), pruneArgs("-o", "en", "--eval", "code.jsonl"), pruneArgs("-o", "less", "--target", "0.1")} {
		if code, _, stderr := invoke(args...); code != 0 {
			t.Fatal(stderr)
		}
	}
	code, stdout, stderr := invoke("compare", "en", "less", "both")
	if code != 0 || stderr != "" {
		t.Fatal(stderr)
	}
	lines := strings.Split(stdout, "\n")
	if lines[0] != "both was calibrated on another text than en; the held-out losses are of other windows." || lines[1] != "" ||
		!reflect.DeepEqual(strings.Fields(lines[2]), []string{"en", "less", "both"}) || !reflect.DeepEqual(strings.Fields(lines[3]), strings.Fields("target 30.00 % 10.00 % 30.00 %")) {
		t.Errorf("the table is\n%s", stdout)
	}
	en, err := report.Read("en/report.json")
	if err != nil {
		t.Fatal(err)
	}
	pruned := en.Evaluations[1]
	if want := fmt.Sprintf("perplexity on code.jsonl, %d windows of 32, pruned %.2f – –", pruned.Windows, pruned.Perplexity); !strings.Contains(strings.Join(strings.Fields(stdout), " "), want) {
		t.Errorf("no %q in\n%s", want, stdout)
	}

	code, stdout, stderr = invoke("compare", "--masks", "--json", "en", "less", "both")
	var got struct {
		Runs  []string
		Masks []compare.Pair
	}
	if err := json.Unmarshal([]byte(stdout), &got); code != 0 || err != nil || len(got.Masks) != 3 {
		t.Fatal(err, stdout, stderr)
	}
	all := got.Masks[0].Weights[len(got.Masks[0].Weights)-1]
	less, err := report.Read("less/report.json")
	if err != nil {
		t.Fatal(err)
	}
	// The zeros in the files are what the reports say was removed.
	if share := float64(all.RemovedA) / float64(all.Structures); share != en.Final.Sparsity {
		t.Errorf("%v of the weights are zeros, and the report says %v", share, en.Final.Sparsity)
	}
	if share := float64(all.RemovedB) / float64(all.Structures); share != less.Final.Sparsity {
		t.Errorf("%v of the weights are zeros, and the report says %v", share, less.Final.Sparsity)
	}
	// The first shot of one run is on the way to that of the other: they have more in common than by lot.
	if *all.Removed <= *all.RemovedByLot {
		t.Errorf("the overlap is %v, by lot %v", *all.Removed, *all.RemovedByLot)
	}
	_, stdout, _ = invoke("compare", "--masks", "en", "less", "both")
	if want := fmt.Sprintf("%.4f  %.4f", *all.Removed, *all.RemovedByLot); !strings.Contains(stdout, want) || strings.Count(stdout, "\nweights of all ") != 3 {
		t.Errorf("no %q, or not three tables, in\n%s", want, stdout)
	}
	if code, stdout, _ := invoke("compare", "--masks", "en", "model"); code != 0 || strings.Contains(stdout, "rows of") || !strings.Contains(stdout, "Rows and columns are not compared: one of the two has no report.json.") {
		t.Errorf("exit code %d, with a model that no run wrote:\n%s", code, stdout)
	}

	if err := os.Mkdir("empty", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"compare"}, "surgeon: comparing takes two or more runs; 0 given\n"},
		{[]string{"compare", "en"}, "surgeon: comparing takes two or more runs; 1 given\n"},
		{[]string{"compare", "en", "model"}, "surgeon: model has no report.json, so it was not written by surgeon prune; only its weights can be compared, with --masks\n"},
		{[]string{"compare", "--masks", "en", "empty"}, "surgeon: opening model empty: a model directory has a config.json: open empty/config.json: no such file or directory\n"},
		{[]string{"compare", "en", "text.txt"}, "surgeon: text.txt is a file; a directory that surgeon prune has written is expected\n"},
		{[]string{"compare", "en", "nowhere"}, "surgeon: opening a run: stat nowhere: no such file or directory\n"},
	} {
		if code, stdout, stderr := invoke(c.args...); code != exitRequest || stdout != "" || stderr != c.want {
			t.Errorf("%v: exit code %d, %q, %q; want %q", c.args, code, stdout, stderr, c.want)
		}
	}
}
