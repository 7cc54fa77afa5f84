package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
)

// Comparison is what several methods do to one model, at one or more targets each, calibrated on one text and measured on one.
type Comparison struct {
	Model Model `json:"model"`

	// The SHA-256 of each text, behind its name where it has one, before anything of it is left out.
	CalibrationText string `json:"calibration_text_sha256"`
	EvaluationText  string `json:"evaluation_text_sha256"`

	EvaluationArguments []string    `json:"evaluation_arguments"` // of surgeon eval, but for those that name places
	Dense               *Evaluation `json:"dense"`                // nil before it was measured
	Kept                []string    `json:"kept,omitempty"`       // directories of pruned models that are to stay
	Cells               []Cell      `json:"cells"`                // in the order in which they were measured
}

// Place is where a cell stands, and what is asked for there.
type Place struct {
	Table     string   `json:"table"`
	Row       string   `json:"row"`
	Target    float64  `json:"target"`
	Arguments []string `json:"arguments"` // of surgeon prune, but for those that name places
}

// Cell is one run: a method at a target.
type Cell struct {
	Place
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

// Differences are what keeps figures that are made as here from standing beside those of c, with both values, as in
// "evaluation arguments: --length=512 there, --length=256 here". Without figures nothing does.
func (c *Comparison) Differences(here *Comparison) []string {
	if c.Dense == nil && len(c.Cells) == 0 {
		return nil
	}
	var all []string
	differ := func(what, there, here string) {
		if there != here {
			all = append(all, fmt.Sprintf("%s: %s there, %s here", what, there, here))
		}
	}
	differ("model", identity(c.Model.SHA256), identity(here.Model.SHA256))
	differ("calibration text", identity(c.CalibrationText), identity(here.CalibrationText))
	differ("evaluation text", identity(c.EvaluationText), identity(here.EvaluationText))
	differ("evaluation arguments", words(c.EvaluationArguments), words(here.EvaluationArguments))
	return all
}

func identity(sha256 string) string {
	if sha256 == "" {
		return "not told"
	}
	return "SHA-256 " + sha256
}

func words(arguments []string) string {
	if len(arguments) == 0 {
		return "none"
	}
	return strings.Join(arguments, " ")
}

// Find is the cell at a place with the arguments asked for there, or nil.
func (c *Comparison) Find(p Place) *Cell {
	for i := range c.Cells {
		if x := &c.Cells[i]; x.Table == p.Table && x.Row == p.Row && x.Target == p.Target && slices.Equal(x.Arguments, p.Arguments) {
			return x
		}
	}
	return nil
}

// Select is the comparison with no other cells than those at the places, in their order: it also holds cells that were asked
// for once, with other arguments or in other rows, and may be again.
func (c *Comparison) Select(places []Place) *Comparison {
	selected := *c
	selected.Cells = []Cell{}
	for _, p := range places {
		if x := c.Find(p); x != nil {
			selected.Cells = append(selected.Cells, *x)
		}
	}
	return &selected
}

// Markdown is a table of perplexities for each table of the comparison, a row for each method and a column for each target, the
// best of a column in bold; behind them what is really gone, for each target, and the time. No two cells may differ in their arguments alone: Select.
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
		if t == 0 { // of N:M
			b.WriteString(" all blocks |")
			continue
		}
		fmt.Fprintf(b, " %s %% |", strconv.FormatFloat(100*t, 'g', 4, 64))
	}
	b.WriteString(" gone, % | time |\n|---|")
	for range targets {
		b.WriteString("---:|")
	}
	b.WriteString("---|---:|\n")
	if c.Dense != nil {
		fmt.Fprintf(b, "| dense |")
		for range targets {
			fmt.Fprintf(b, " %.2f |", c.Dense.Perplexity)
		}
		b.WriteString(" | |\n")
	}
	for _, row := range rows {
		seconds, gone := 0., []string{}
		fmt.Fprintf(b, "| %s |", cell(row))
		for _, t := range targets {
			x := c.at(table, row, t)
			if x == nil {
				b.WriteString(" – |")
				gone = append(gone, "–")
				continue
			}
			gone = append(gone, fmt.Sprintf("%.2f", 100*x.Sparsity))
			if !x.OnWay {
				seconds += x.Seconds
			}
			if x == c.best(table, t) {
				fmt.Fprintf(b, " **%.2f** |", x.Evaluation.Perplexity)
			} else {
				fmt.Fprintf(b, " %.2f |", x.Evaluation.Perplexity)
			}
		}
		fmt.Fprintf(b, " %s | %s |\n", strings.Join(gone, ", "), duration(seconds))
	}
	b.WriteString("\n")
}

// at is the cell of a row and a column, or nil.
func (c *Comparison) at(table, row string, target float64) *Cell {
	for i := range c.Cells {
		if x := &c.Cells[i]; x.Table == table && x.Row == row && x.Target == target {
			return x
		}
	}
	return nil
}

// best is the cell of the lowest perplexity in a column, the first of equal ones.
func (c *Comparison) best(table string, target float64) *Cell {
	var best *Cell
	for i := range c.Cells {
		if x := &c.Cells[i]; x.Table == table && x.Target == target && (best == nil || x.Evaluation.Perplexity < best.Evaluation.Perplexity) {
			best = x
		}
	}
	return best
}
