package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"surgeon/engine/report"
)

const tinyTable = `
options: {model: model, text: [text.txt], samples: 8, length: 32, shots: 1}
eval: {text: [text.txt], length: 32, windows: 6}
tables:
  - title: Single weights
    targets: [0.3, 0.5]
    options: {structure: element}
    rows:
      - {name: magnitude, options: {preset: magnitude}}
      - {name: ours, options: {group: 100}}
  - title: Rows and columns
    targets: [0.2]
    rows:
      - {name: ours, options: {shots: 2}}
`

// What would be caught: a run that a table leaves out, makes twice, or measures on another model than it made; results that
// are lost by a stop; models that are left behind.
func TestTable(t *testing.T) {
	tiny(t)
	writeFile(t, "table.yaml", tinyTable)
	code, stdout, stderr := invoke("table", "table.yaml", "--results", "results", "--only", "Single weights, mag")
	if code != 0 {
		t.Fatal(stderr)
	}
	first := readResults(t)
	if len(first.Cells) != 2 || first.Dense == nil || !strings.Contains(stdout, "| magnitude | **") {
		t.Fatalf("%d cells of the row asked for, dense %v:\n%s", len(first.Cells), first.Dense, stdout)
	}
	code, stdout, stderr = invoke("table", "table.yaml", "--results", "results")
	if code != 0 || !strings.Contains(stderr, "number=2 of=2") {
		t.Fatal(stderr)
	}
	all := readResults(t)
	if len(all.Cells) != 5 || all.Cells[0].Seconds != first.Cells[0].Seconds {
		t.Errorf("%d cells, the first one made again or not: %+v, %+v", len(all.Cells), all.Cells[0], first.Cells[0])
	}
	for _, want := range []string{"**Single weights**\n\n| | 30 % | 50 % | time |", "**Rows and columns**\n\n| | 20 % | time |", "| dense |"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	if stdout != readFile(t, "results/results.md") {
		t.Error("results.md is not what was printed")
	}
	entries, err := os.ReadDir("results")
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, in the directory of results are %v", err, entries)
	}
	// by hand
	if code, _, stderr = invoke("prune", "model", "--text", "text.txt", "--samples", "8", "--length", "32", "--shots", "1", "--structure", "element", "--group", "100", "--target", "0.5", "-o", "out"); code != 0 {
		t.Fatal(stderr)
	}
	code, stdout, stderr = invoke("eval", "out", "--text", "text.txt", "--length", "32", "--windows", "6", "--json")
	e := evaluated(t, code, stdout, stderr)
	if e := all.Cells[0].Evaluation; e.Of != "magnitude" || e.Text != "text.txt" || all.Model.Path != "model" {
		t.Errorf("results name %q, %q and %q", e.Of, e.Text, all.Model.Path)
	}
	if got := all.Cells[3]; got.Row != "ours" || got.Target != 0.5 || got.Evaluation.Loss != e.Loss {
		t.Errorf("the cell %+v, by hand the loss is %v", got, e.Loss)
	}
}

// evaluated is what eval --json has printed.
func evaluated(t *testing.T, code int, stdout, stderr string) report.Evaluation {
	t.Helper()
	var e struct{ Texts []report.Evaluation }
	if err := json.Unmarshal([]byte(stdout), &e); code != 0 || err != nil || len(e.Texts) != 1 {
		t.Fatal(err, stdout, stderr)
	}
	return e.Texts[0]
}

func readResults(t *testing.T) *report.Comparison {
	t.Helper()
	c, err := report.ReadComparison("results/results.json")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What would be caught: a run that meets several targets and gives other models than a run to each; one that is made again
// because one of its cells is missing after a stop; models on the way that are left behind.
func TestTableOneRun(t *testing.T) {
	tiny(t)
	writeFile(t, "table.yaml", strings.NewReplacer("targets: [0.2]", "targets: [0.2, 0.1]", "{name: ours, options: {shots: 2}}", "{name: ours, one-run: true, options: {shots: 2}}").Replace(tinyTable))
	code, stdout, stderr := invoke("table", "table.yaml", "--results", "results", "--only", "Rows")
	if code != 0 || strings.Count(stderr, "number=2 of=2") != 1 || !strings.Contains(stdout, "| | 10 % | 20 % | time |") {
		t.Fatal(stdout, stderr)
	}
	entries, err := os.ReadDir("results")
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, in the directory of results are %v", err, entries)
	}
	all := readResults(t)
	for i, by := range []struct{ target, shots string }{{"0.1", "1"}, {"0.2", "2"}} {
		out := "out" + by.target
		if code, _, stderr = invoke("prune", "model", "--text", "text.txt", "--samples", "8", "--length", "32", "--shots", by.shots, "--target", by.target, "-o", out); code != 0 {
			t.Fatal(stderr)
		}
		code, stdout, stderr = invoke("eval", out, "--text", "text.txt", "--length", "32", "--windows", "6", "--json")
		e := evaluated(t, code, stdout, stderr)
		if got := all.Cells[i]; fmt.Sprint(got.Target) != by.target || got.Evaluation.Loss != e.Loss || !slices.Contains(got.Arguments, "--shots="+by.shots) || !(got.Sparsity < got.Target+0.05) {
			t.Errorf("the cell %+v, by hand the loss is %v", got, e.Loss)
		}
	}
	if !all.Cells[0].OnWay || all.Cells[1].OnWay || !(all.Cells[0].Seconds < all.Cells[1].Seconds) {
		t.Errorf("the cells on the way and at its end take %v and %v s: %+v", all.Cells[0].Seconds, all.Cells[1].Seconds, all.Cells)
	}

	// Stopped after the first of its cells: the run is there, and so is the model that was not measured.
	if code, _, stderr = invoke("table", "table.yaml", "--results", "results", "--only", "Rows", "--keep"); code != 0 || strings.Contains(stderr, "shot") {
		t.Fatal(stderr)
	}
	writeFile(t, "table.yaml", strings.ReplaceAll(readFile(t, "table.yaml"), "shots: 2", "shots: 4"))
	if code, _, stderr = invoke("table", "table.yaml", "--results", "results", "--only", "Rows", "--keep"); code != 0 {
		t.Fatal(stderr)
	}
	all = readResults(t)
	lost := all.Cells[len(all.Cells)-1]
	all.Cells = all.Cells[:len(all.Cells)-1]
	if err := all.Write("results/results.json"); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr = invoke("table", "table.yaml", "--results", "results", "--only", "Rows"); code != 0 || strings.Contains(stderr, "number=") {
		t.Fatal(stderr)
	}
	if all = readResults(t); len(all.Cells) != 4 || all.Cells[3].Evaluation != lost.Evaluation {
		t.Errorf("measured again: %+v, want %+v", all.Cells[len(all.Cells)-1], lost)
	}
}

// What would be caught: a table that runs for hours before it finds that its last row makes no sense.
func TestTableRefuses(t *testing.T) {
	tiny(t)
	for _, test := range []struct{ old, new, want string }{
		{"preset: magnitude", "preset: magnitud", "table.yaml: Single weights, magnitude: --preset"},
		{"group: 100", "group: many", "table.yaml: Single weights, ours: --group"},
		{"group: 100", "grope: 100", "table.yaml: Single weights, ours: unknown flag --grope"},
		{"preset: magnitude", "preset: magnitude, update: joint", "table.yaml: Single weights, magnitude: --preset magnitude stands for --update none"},
		{"group: 100", "output: x", "table.yaml: Single weights, ours: output is not an option of a row"},
		{"title: Rows and columns", "titel: Rows and columns", `unknown field "titel"`},
		{"targets: [0.2]", "targets: []", "a table needs title, targets and rows"},
		{"name: ours, options: {shots: 2}", "name: ours, one-run: true, options: {write-at: [0.1]}", "write-at is not an option of a row"},
		{"targets: [0.2]\n    rows:\n      - {name: ours,", "targets: [0.1, 0.15]\n    rows:\n      - {name: ours, one-run: true,", "ours: --write-at 0.1: no shot on the way to --target 0.15 ends there; they end at 0.075"},
		{"windows: 6", "windows: -1", "--batch is 0 and --windows is -1"},
		{"eval: {text: [text.txt]", "eval: {text: [a=text.txt, b=text.txt]", "eval has the texts a and b; a table is one of perplexities on one"},
		{tinyTable, "", "table.yaml has no tables"},
	} {
		writeFile(t, "table.yaml", strings.Replace(tinyTable, test.old, test.new, 1))
		code, _, stderr := invoke("table", "table.yaml", "--results", "results")
		if code != exitRequest || !strings.Contains(stderr, test.want) {
			t.Errorf("%s: exit %d, %s\nwant %q", test.new, code, stderr, test.want)
		}
	}
}
