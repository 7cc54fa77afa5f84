package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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
	for _, want := range []string{"**Single weights**\n\n| | 30 % | 50 % | gone, % | time |", "**Rows and columns**\n\n| | 20 % | gone, % | time |", "| dense |"} {
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
	if code != 0 || strings.Count(stderr, "number=2 of=2") != 1 || !strings.Contains(stdout, "| | 10 % | 20 % | gone, % | time |") {
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

// What would be caught: a table that runs for hours before it finds that its last row makes no sense, and an option that is taken
// and has no effect.
func TestTableRefuses(t *testing.T) {
	tiny(t)
	type refusal struct{ old, new, want string }
	tests := []refusal{
		{"preset: magnitude", "preset: magnitud", "table.yaml: Single weights, magnitude: --preset"},
		{"group: 100", "group: many", "table.yaml: Single weights, ours: --group"},
		{"group: 100", "grope: 100", "table.yaml: Single weights, ours: unknown flag --grope"},
		{"preset: magnitude", "preset: magnitude, update: joint", "table.yaml: Single weights, magnitude: --preset magnitude stands for --update none"},
		{"group: 100", "step-limit: 0.1", "table.yaml: Single weights, ours: --step-limit would do nothing: it needs --structure rowcol"},
		{"group: 100", "max-loss: 7", "table.yaml: Single weights, ours: max-loss is not an option of a row: a run that it stops"},
		{"{name: ours, options: {group: 100}}", "{options: {group: 100}}", "table.yaml: Single weights: a row has no name"},
		{"group: 100", "output: x", "table.yaml: Single weights, ours: output is not an option of a row"},
		{"group: 100", "config: x", "table.yaml: Single weights, ours: config is not an option of a row"},
		{"group: 100", "model: x", "table.yaml: Single weights, ours: model is not an option of a row: a table is one of methods, on the model"},
		{"structure: element", "structure: element, text: [x]", "table.yaml: Single weights, magnitude: text is not an option of a row: a table is one of methods, on the model"},
		{"title: Rows and columns", "title: [x]", ": a text is expected here\n"},
		{"targets: [0.2]", "targets: [x]", ": a number is expected here\n"},
		{"name: ours,", "name: ours, one-run: maybe,", ": true or false is expected here\n"},
		{"title: Rows and columns", "titel: Rows and columns", `unknown field "titel"`},
		{"title: Rows and columns", "title: Single weights", "two tables have the title Single weights"},
		{"{name: ours, options: {group: 100}}", "{name: magnitude}", "Single weights: two rows have the name magnitude"},
		{"targets: [0.2]", "targets: []", "a table needs title, targets and rows"},
		{"targets: [0.2]", "targets: [0.2, 0.1, 0.2]", "Rows and columns: a target stands twice in [0.2 0.1 0.2]"},
		{"name: ours, options: {shots: 2}", "name: ours, one-run: true, options: {write-at: [0.1]}", "write-at is not an option of a row"},
		{"targets: [0.2]\n    rows:\n      - {name: ours,", "targets: [0.1, 0.15]\n    rows:\n      - {name: ours, one-run: true,", "ours: --write-at 0.1: no shot on the way to --target 0.15 ends there; they end at 0.075"},
		{"windows: 6", "windows: -1", "table.yaml: eval: --windows is -1"},
		{"eval: {text: [text.txt]", "eval: {text: [nowhere.txt]", "table.yaml: eval: stat nowhere.txt: no such file"},
		{"eval: {text: [text.txt],", "eval: {", "table.yaml: eval: there is nothing to measure"},
		{"eval: {text: [text.txt]", "eval: {text: [a=text.txt, b=text.txt]", "table.yaml: eval: the texts are a and b; a table is one of perplexities on one"},
		{"windows: 6", "model: x", "table.yaml: eval: model is not an option of the measurement"},
		{"windows: 6", "tasks: [x]", "table.yaml: eval: tasks is not an option of the measurement"},
		{"windows: 6", "results: x", "table.yaml: eval: results is not an option of the measurement"},
		{tinyTable, "", "table.yaml has no tables"},
		{tinyTable, strings.Repeat("#", configBytesMax+1), "table.yaml is longer than 1048576 bytes; a YAML file with tables is expected"},
	}
	for _, option := range []string{"device: cpu", "gpu-memory: 1GiB", "threads: 1", "quiet: true", "verbose: true", "log-format: json", "cpuprofile: x", "json: true"} {
		name, _, _ := strings.Cut(option, ":")
		tests = append(tests, refusal{"group: 100", option, "table.yaml: Single weights, ours: " + name + " is not an option of a row"},
			refusal{"samples: 8", option, "table.yaml: Single weights, magnitude: " + name + " is not an option of a row"},
			refusal{"windows: 6", option, "table.yaml: eval: " + name + " is not an option of the measurement"})
	}
	writeFile(t, "table.yaml", tinyTable)
	code, _, stderr := invoke("table", "table.yaml", "--results", "results", "--only", "hours")
	if code != exitRequest || !strings.Contains(stderr, "--only hours: no table or row of table.yaml is called so; the rows are Single weights, magnitude; Single weights, ours; Rows and columns, ours\n") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if code, _, stderr = invoke("table", "table.yaml", "--results", "model"); code != exitRequest || !strings.Contains(stderr, "--results model: a model lies there") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	tests = append(tests, refusal{"group: 100", "dry-run: true", "table.yaml: Single weights, ours: dry-run is not an option of a row"})
	for _, test := range tests {
		writeFile(t, "table.yaml", strings.Replace(tinyTable, test.old, test.new, 1))
		code, _, stderr := invoke("table", "table.yaml", "--results", "results")
		if code != exitRequest || !strings.Contains(stderr, test.want) || strings.Contains(stderr, "<nil>") {
			t.Errorf("%.40s: exit %d, %s\nwant %q", test.new, code, stderr, test.want)
		}
		if _, err := os.Stat("results"); err == nil {
			t.Fatalf("%.40s: something was written", test.new)
		}
	}
}

// What would be caught: a model of many gigabytes that is read, for its checksum, before anything is told.
func TestTableTellsOfChecksums(t *testing.T) {
	tiny(t)
	writeFile(t, "table.yaml", oneRow)
	writeFile(t, "cut/config.json", readFile(t, "model/config.json"))
	_, _, stderr := invoke("table", "table.yaml", "--results", "results", "--model", "cut")
	told, _, refused := strings.Cut(stderr, "surgeon: opening model cut: ")
	if !refused || !strings.Contains(told, `msg=begin stage="checksums of the model and the texts"`) {
		t.Errorf("before the model was looked at: %q", stderr)
	}
}

// oneRow is a table of one run, for which an option of all runs does nothing.
const oneRow = `
options: {model: model, text: [text.txt], samples: 8, length: 32, damp-g: 0.05}
eval: {text: [text.txt], length: 32, windows: 6}
tables:
  - {title: t, targets: [0.3], options: {structure: element}, rows: [{name: a, options: {preset: magnitude}}]}
`

// madeTable runs the table in table.yaml, which must not fail, and is what it prints.
func madeTable(t *testing.T, more ...string) (stdout string) {
	t.Helper()
	code, stdout, stderr := invoke(append([]string{"table", "table.yaml", "--results", "results"}, more...)...)
	if code != 0 {
		t.Fatal(stderr)
	}
	if md := readFile(t, "results/results.md"); md != stdout {
		t.Errorf("results.md is not what was printed but\n%s", md)
	}
	return stdout
}

// What would be caught: figures of one model, text or measurement that pass for those of another; results that are refused
// because the model lies elsewhere.
func TestTableOfSomethingElse(t *testing.T) {
	tiny(t)
	writeFile(t, "table.yaml", oneRow)
	want := madeTable(t)
	before := readFile(t, "results/results.json")
	weights := readFile(t, "model/model.safetensors")
	for _, name := range []string{"other", "moved"} {
		writeFile(t, name+"/config.json", readFile(t, "model/config.json"))
		writeFile(t, name+"/tokenizer.json", readFile(t, "model/tokenizer.json"))
	}
	writeFile(t, "moved/model.safetensors", weights)
	writeFile(t, "other/model.safetensors", weights[:len(weights)-4]+"\x00\x00\x80\x3f")
	writeFile(t, "other.txt", tinyText(3000))
	for _, test := range []struct {
		old, new string
		args     []string
		want     []string
	}{
		{"", "", []string{"--model", "other"}, []string{"model: SHA-256 "}},
		{"", "", []string{"--text", "other.txt"}, []string{"calibration text: SHA-256 ", "; evaluation text: SHA-256 "}},
		{"eval: {text: [text.txt]", "eval: {text: [other.txt]", nil, []string{"(evaluation text: SHA-256 "}},
		{"options: {model: model, text: [text.txt]", "options: {model: model, text: [n=text.txt]", nil, []string{"(calibration text: SHA-256 "}},
		{"length: 32, windows: 6", "length: 16", nil, []string{"(evaluation arguments: --length=32 --windows=6 there, --length=16 here)"}},
	} {
		writeFile(t, "table.yaml", strings.Replace(oneRow, test.old, test.new, 1))
		code, stdout, stderr := invoke(append([]string{"table", "table.yaml", "--results", "results"}, test.args...)...)
		if code != exitRequest || stdout != "" || !strings.Contains(stderr, "surgeon: the results in results/results.json are of something else (") {
			t.Errorf("%s%q: exit %d, %s%s", test.new, test.args, code, stdout, stderr)
		}
		for _, want := range test.want {
			if !strings.Contains(stderr, want) {
				t.Errorf("%s%q: no %q in %s", test.new, test.args, want, stderr)
			}
		}
		if readFile(t, "results/results.json") != before {
			t.Fatalf("%s%q: the results were changed", test.new, test.args)
		}
	}
	writeFile(t, "table.yaml", oneRow)
	if got := madeTable(t, "--model", "moved"); got != want || readFile(t, "results/results.json") != before {
		t.Errorf("the same model elsewhere:\n%s\nwant\n%s", got, want)
	}
}

// What would be caught: a row that shows the figures of the options it had in between, rows that the file has no more, a table
// that stays as it was when the file asks for another order.
func TestTableAsTheFileIs(t *testing.T) {
	tiny(t)
	writeFile(t, "table.yaml", oneRow)
	first := madeTable(t)
	writeFile(t, "table.yaml", strings.NewReplacer("preset: magnitude", "preset: wanda", "[{name: a", "[{name: b, options: {shots: 1}}, {name: a").Replace(oneRow))
	second := madeTable(t)
	if second == first || strings.Index(second, "| b |") > strings.Index(second, "| a |") {
		t.Errorf("other rows give\n%s", second)
	}
	if len(readResults(t).Cells) != 3 {
		t.Error("the results do not hold all three runs")
	}
	writeFile(t, "table.yaml", oneRow)
	writeFile(t, "results/results.md", "torn")
	if third := madeTable(t); third != first {
		t.Errorf("the first rows again:\n%s\nwant\n%s", third, first)
	}
	code, stdout, stderr := invoke("table", "table.yaml", "--results", "results", "--json")
	var doc report.Comparison
	if err := json.Unmarshal([]byte(stdout), &doc); code != 0 || err != nil || len(doc.Cells) != 1 {
		t.Errorf("--json: %d cells, %v, %s", len(doc.Cells), err, stderr)
	}
}

// directories are those in the directory of results.
func directories(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir("results")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// What would be caught: two rows that share a directory, a row that cannot be run with other options while a model of it is
// kept, a model that a killed process left for ever, a kept one that goes.
func TestTableDirectories(t *testing.T) {
	tiny(t)
	writeFile(t, "table.yaml", strings.Replace(oneRow, "rows: [", "rows: [{name: L-OBD, options: {preset: l-obd}}, {name: L OBD, options: {preset: wanda}}, ", 1))
	madeTable(t, "--only", "L OBD")
	code, _, stderr := invoke("table", "table.yaml", "--results", "results", "--keep", "--only", "OBD")
	if want := `--keep: what is finished is not run again, so no model is kept of t, L OBD, 0.3; to have them, give another directory with --results"`; code != 0 || !strings.Contains(stderr, want) {
		t.Errorf("exit code %d, no %q in\n%s", code, want, stderr)
	}
	if err := os.RemoveAll("results"); err != nil {
		t.Fatal(err)
	}
	madeTable(t, "--keep", "--only", "OBD")
	if _, _, stderr := invoke("table", "table.yaml", "--results", "results", "--keep", "--only", "OBD"); strings.Contains(stderr, "--keep") {
		t.Errorf("with both models there:\n%s", stderr)
	}
	kept := directories(t)
	if len(kept) != 2 || kept[0][:len("t-l-obd-0.3-")] != "t-l-obd-0.3-" || kept[1][:len("t-l-obd-0.3-")] != "t-l-obd-0.3-" {
		t.Fatalf("two models are kept in %q", kept)
	}
	writeFile(t, "table.yaml", strings.Replace(readFile(t, "table.yaml"), "preset: l-obd", "preset: l-obd, shots: 2", 1))
	madeTable(t)
	if got := directories(t); !slices.Equal(got, kept) {
		t.Errorf("a row has other options now, and one was not kept: %q, want %q", got, kept)
	}

	// Killed between the results and the end of the model: what is to be kept is not known to be.
	all := readResults(t)
	all.Kept = all.Kept[1:]
	if err := all.Write("results/results.json"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, "table.yaml", strings.Replace(readFile(t, "table.yaml"), "preset: l-obd, shots: 2", "preset: l-obd", 1))
	madeTable(t)
	if got := directories(t); !slices.Equal(got, all.Kept) {
		t.Errorf("after that the models are %q, want %q", got, all.Kept)
	}
}

// What would be caught: two tables that add to one directory at the same time, of which the one that writes last loses the rows of
// the other.
func TestTableOneAtATime(t *testing.T) {
	tiny(t)
	writeFile(t, "table.yaml", tinyTable)
	if err := os.Mkdir("results", 0o755); err != nil {
		t.Fatal(err)
	}
	other, err := os.Open("results")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := invoke("table", "table.yaml", "--results", "results", "--only", "Single weights, mag")
	if entries, _ := os.ReadDir("results"); code != 2 || !strings.Contains(stderr, "--results results: another surgeon is adding to it") || len(entries) > 0 {
		t.Errorf("exit code %d, %d files: %s", code, len(entries), stderr)
	}
}
