package report

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func tableCell(table, row string, target, perplexity, seconds float64, onWay bool, arguments ...string) Cell {
	return Cell{Place: Place{table, row, target, arguments}, Evaluation: Evaluation{Perplexity: perplexity}, Seconds: seconds, OnWay: onWay}
}

// What would be caught: a figure in another row or column, the wrong one in bold, a run that is counted twice, a gap that looks
// like a figure, a row that does not tell that more or less is gone than its column says.
func TestComparisonMarkdown(t *testing.T) {
	c := Comparison{Dense: &Evaluation{Perplexity: 20}, Cells: []Cell{
		tableCell("Rows | columns", "a", 0.25, 29.994, 70, false),
		tableCell("weights", "c", 0.5, 21.001, 1.5, false),
		tableCell("Rows | columns", "b", 0.125, 22.5, 10, true),
		tableCell("Rows | columns", "b", 0.25, 31, 30, false),
		tableCell("blocks", "d", 0, 23, 1, false),
	}}
	for i, gone := range []float64{0.25, 0.5, 0.126, 0.32994, 0.5} {
		c.Cells[i].Sparsity = gone
	}
	want := `**Rows \| columns**

| | 12.5 % | 25 % | gone, % | time |
|---|---:|---:|---|---:|
| dense | 20.00 | 20.00 | | |
| a | – | **29.99** | –, 25.00 | 1m10s |
| b | **22.50** | 31.00 | 12.60, 32.99 | 30.0 s |

**weights**

| | 50 % | gone, % | time |
|---|---:|---|---:|
| dense | 20.00 | | |
| c | **21.00** | 50.00 | 1.5 s |

**blocks**

| | all blocks | gone, % | time |
|---|---:|---|---:|
| dense | 20.00 | | |
| d | **23.00** | 50.00 | 1.0 s |

`
	if got := c.Markdown(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What would be caught: the figures of other arguments in a cell, a row that is asked for no more, the best of a column that is
// none of the rows, an order other than the one asked for.
func TestComparisonSelect(t *testing.T) {
	c := Comparison{Dense: &Evaluation{Perplexity: 20}, Cells: []Cell{
		tableCell("t", "a", 0.5, 30, 1, false, "--shots=2"),
		tableCell("t", "gone", 0.5, 21, 1, false),
		tableCell("t", "a", 0.5, 25, 1, false, "--shots=4"),
		tableCell("t", "b", 0.5, 31, 1, false),
	}}
	for shots, want := range map[string]string{"--shots=2": "**30.00**", "--shots=4": "**25.00**"} {
		got := c.Select([]Place{{"t", "b", 0.5, nil}, {"t", "not run", 0.5, nil}, {"t", "a", 0.5, []string{shots}}}).Markdown()
		if want := "| b | 31.00 | 0.00 | 1.0 s |\n| a | " + want + " | 0.00 | 1.0 s |\n\n"; !strings.HasSuffix(got, want) || strings.Contains(got, "| gone |") || strings.Contains(got, "not run") {
			t.Errorf("got\n%s\nwith the end\n%s", got, want)
		}
	}
	if len(c.Cells) != 4 {
		t.Errorf("the comparison itself has %d cells left", len(c.Cells))
	}
}

// What would be caught: figures of one model, or text, or measurement, beside those of another; an empty comparison that nothing
// can be added to.
func TestComparisonDifferences(t *testing.T) {
	of := func(change func(*Comparison)) *Comparison {
		c := &Comparison{Model: Model{Path: "here", SHA256: "m"}, CalibrationText: "c", EvaluationText: "e", EvaluationArguments: []string{"--length=512"}}
		change(c)
		return c
	}
	full := of(func(c *Comparison) { c.Dense = &Evaluation{} })
	for _, test := range []struct {
		change func(*Comparison)
		want   []string
	}{
		{func(c *Comparison) { c.Model.Path = "there" }, nil},
		{func(c *Comparison) { c.Model.SHA256 = "x" }, []string{"model: SHA-256 m there, SHA-256 x here"}},
		{func(c *Comparison) { c.CalibrationText = "x" }, []string{"calibration text: SHA-256 c there, SHA-256 x here"}},
		{func(c *Comparison) { c.EvaluationText = "x" }, []string{"evaluation text: SHA-256 e there, SHA-256 x here"}},
		{func(c *Comparison) { c.EvaluationArguments = nil }, []string{"evaluation arguments: --length=512 there, none here"}},
	} {
		here := of(test.change)
		if got := full.Differences(here); !slices.Equal(got, test.want) {
			t.Errorf("%q, want %q", got, test.want)
		}
		if got := new(Comparison).Differences(here); got != nil {
			t.Errorf("an empty comparison: %q", got)
		}
	}
	old := &Comparison{Cells: []Cell{{}}} // of a program that did not tell
	if got, want := old.Differences(full)[0], "model: not told there, SHA-256 m here"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// What would be caught: results that were published and cannot be gone on with, because a field has another name now.
func TestComparisonAsPublished(t *testing.T) {
	const path = "../../bench/results/smollm2-table.json"
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ReadComparison(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.JSON()
	if err != nil || string(got) != string(want) {
		t.Errorf("%s is written in other bytes than it is read from (%v)", path, err)
	}
	if c.Model.SHA256 == "" || c.CalibrationText == "" || c.EvaluationText == "" || len(c.EvaluationArguments) == 0 {
		t.Errorf("%s does not tell what it is of", path)
	}
}
