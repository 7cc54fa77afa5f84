package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/google/renameio/v2"
)

// Comparison is what several methods do to one model, at one or more targets each.
type Comparison struct {
	Model Model       `json:"model"`
	Dense *Evaluation `json:"dense"` // nil before it was measured
	Cells []Cell      `json:"cells"` // in the order in which they were measured
}

// Cell is one run: a method at a target.
type Cell struct {
	Table      string     `json:"table"`
	Row        string     `json:"row"`
	Target     float64    `json:"target"`
	Arguments  []string   `json:"arguments"` // of surgeon prune, but for those that name places
	Evaluation Evaluation `json:"evaluation"`
	Sparsity   float64    `json:"sparsity"`
	Reduction  float64    `json:"whole_model_reduction"`
	Seconds    float64    `json:"seconds"`             // of all shots
	OnWay      bool       `json:"on_way,omitempty"`    // to a higher target, whose shots are these and more
	PeakBytes  int64      `json:"peak_resident_bytes"` // of the process up to here
	Program    Program    `json:"program"`
	Device     string     `json:"device"`
}

// ReadComparison reads what Write has written; a file that is not there is an empty comparison.
func ReadComparison(path string) (*Comparison, error) {
	c := new(Comparison)
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(b, c)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the results in %s: %w", path, err)
	}
	return c, nil
}

// JSON is the comparison as a file has it.
func (c *Comparison) JSON() ([]byte, error) {
	if err := finite(c); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(c, "", "  ")
	return append(b, '\n'), err
}

// Write writes JSON to path, which is replaced at once or not at all.
func (c *Comparison) Write(path string) error {
	b, err := c.JSON()
	if err == nil {
		err = renameio.WriteFile(path, b, 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing the results to %s: %w", path, err)
	}
	return nil
}

// Find is the cell with these places and arguments, or nil.
func (c *Comparison) Find(table, row string, target float64, arguments []string) *Cell {
	for i := range c.Cells {
		if x := &c.Cells[i]; x.Table == table && x.Row == row && x.Target == target && slices.Equal(x.Arguments, arguments) {
			return x
		}
	}
	return nil
}

// Markdown is a table of perplexities for each table of the comparison, a row for each method and a column for each target, the
// best of a column in bold.
func (c *Comparison) Markdown() string {
	var b bytes.Buffer
	var tables []string
	for _, x := range c.Cells {
		if !slices.Contains(tables, x.Table) {
			tables = append(tables, x.Table)
		}
	}
	for _, table := range tables {
		c.table(&b, table)
	}
	return b.String()
}

func (c *Comparison) table(b *bytes.Buffer, table string) {
	var rows []string
	var targets []float64
	for _, x := range c.Cells {
		if x.Table != table {
			continue
		}
		if !slices.Contains(rows, x.Row) {
			rows = append(rows, x.Row)
		}
		if !slices.Contains(targets, x.Target) {
			targets = append(targets, x.Target)
		}
	}
	slices.Sort(targets)
	fmt.Fprintf(b, "**%s**\n\n| |", cell(table))
	for _, t := range targets {
		fmt.Fprintf(b, " %s %% |", strconv.FormatFloat(100*t, 'g', 4, 64))
	}
	b.WriteString(" time |\n|---|")
	for range targets {
		b.WriteString("---:|")
	}
	b.WriteString("---:|\n")
	if c.Dense != nil {
		fmt.Fprintf(b, "| dense |")
		for range targets {
			fmt.Fprintf(b, " %.2f |", c.Dense.Perplexity)
		}
		b.WriteString(" |\n")
	}
	for _, row := range rows {
		seconds := 0.
		fmt.Fprintf(b, "| %s |", cell(row))
		for _, t := range targets {
			x := c.last(table, row, t)
			if x == nil {
				b.WriteString(" – |")
				continue
			}
			if !x.OnWay {
				seconds += x.Seconds
			}
			if x == c.best(table, t) {
				fmt.Fprintf(b, " **%.2f** |", x.Evaluation.Perplexity)
			} else {
				fmt.Fprintf(b, " %.2f |", x.Evaluation.Perplexity)
			}
		}
		fmt.Fprintf(b, " %s |\n", duration(seconds))
	}
	b.WriteString("\n")
}

// last is the newest cell of a place, or nil.
func (c *Comparison) last(table, row string, target float64) *Cell {
	for i := len(c.Cells) - 1; i >= 0; i-- {
		if x := &c.Cells[i]; x.Table == table && x.Row == row && x.Target == target {
			return x
		}
	}
	return nil
}

func (c *Comparison) best(table string, target float64) *Cell {
	var best *Cell
	for _, x := range c.Cells {
		if x.Table == table && x.Target == target {
			if newest := c.last(table, x.Row, target); best == nil || newest.Evaluation.Perplexity < best.Evaluation.Perplexity {
				best = newest
			}
		}
	}
	return best
}
