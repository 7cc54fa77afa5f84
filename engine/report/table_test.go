package report

import "testing"

// What would be caught: a figure in another row or column, the wrong one in bold, a run that is counted twice, a gap that looks
// like a figure.
func TestComparisonMarkdown(t *testing.T) {
	cell := func(table, row string, target, perplexity, seconds float64, onWay bool) Cell {
		return Cell{Table: table, Row: row, Target: target, Evaluation: Evaluation{Perplexity: perplexity}, Seconds: seconds, OnWay: onWay}
	}
	c := Comparison{Dense: &Evaluation{Perplexity: 20}, Cells: []Cell{
		cell("Rows | columns", "a", 0.25, 30, 60, false),
		cell("weights", "c", 0.5, 21.001, 1.5, false),
		cell("Rows | columns", "b", 0.125, 22.5, 10, true),
		cell("Rows | columns", "b", 0.25, 31, 30, false),
		cell("Rows | columns", "a", 0.25, 29.994, 70, false), // made again: the last one counts
	}}
	want := `**Rows \| columns**

| | 12.5 % | 25 % | time |
|---|---:|---:|---:|
| dense | 20.00 | 20.00 | |
| a | – | **29.99** | 1m10s |
| b | **22.50** | 31.00 | 30.0 s |

**weights**

| | 50 % | time |
|---|---:|---:|
| dense | 20.00 | |
| c | **21.00** | 1.5 s |

`
	if got := c.Markdown(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
