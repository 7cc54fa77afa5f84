package main

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"surgeon/engine/compare"
	"surgeon/engine/report"
)

type compareCommand struct {
	Runs  []string `arg:"" optional:"" name:"run" placeholder:"DIR" help:"Directories that surgeon prune has written, two or more. With --masks any Hugging Face directory will do."`
	Masks bool     `help:"Tell how far the runs removed the same rows, columns and weights, instead of their figures." group:"general"`
	JSON  bool     `help:"Print the comparison, or the error, as JSON on standard output." group:"general"`
}

// Help stands below the summary in --help.
func (*compareCommand) Help() string {
	return `Without --masks, the figures of the runs' reports stand side by side. With it, each two runs are compared by layer: of what either removed (or kept) the share that both did, beside what it would be by lot, if each had drawn the same numbers in each layer at random. Rows and columns are those of the reports; weights are the zeros in the files. A directory without a report is compared by its weights only.`
}

// comparison is the JSON of compare.
type comparison struct {
	Runs        []string         `json:"runs"`
	Differences []string         `json:"differences"`
	Figures     []compare.Figure `json:"figures,omitempty"`
	Masks       []compare.Pair   `json:"masks,omitempty"`
}

func (c *compareCommand) Run(s *session) error {
	runs, err := compare.Open(c.Runs, c.Masks)
	if err != nil {
		return refuse("%w", err)
	}
	result := comparison{Runs: c.Runs, Differences: append([]string{}, compare.Differences(runs)...)}
	if c.Masks {
		result.Masks, err = compare.Masks(s.ctx, runs)
	} else {
		result.Figures = compare.Figures(runs)
	}
	switch {
	case s.ctx.Err() != nil:
		return s.ctx.Err()
	case err != nil:
		return refuse("%w", err)
	}
	var b strings.Builder
	if c.JSON {
		if err := writeJSON(&b, result); err != nil {
			return fmt.Errorf("the comparison: %w", err)
		}
		return s.print(b.String())
	}
	for _, sentence := range result.Differences {
		fmt.Fprintln(&b, sentence)
	}
	if len(result.Differences) > 0 {
		fmt.Fprintln(&b)
	}
	if c.Masks {
		masksText(&b, result.Masks)
	} else {
		figuresText(&b, result)
	}
	return s.print(b.String())
}

// figuresText is a table with a column for each run.
func figuresText(b *strings.Builder, c comparison) {
	table := [][]string{append([]string{""}, c.Runs...)}
	for _, f := range c.Figures {
		row := []string{f.Name}
		for _, v := range f.Values {
			row = append(row, figure(f.Kind, v))
		}
		table = append(table, row)
	}
	aligned(b, table)
}

func figure(kind compare.Kind, v *float64) string {
	switch {
	case v == nil:
		return "–"
	case kind == compare.Share:
		return report.Percent(*v)
	case kind == compare.Loss:
		return fmt.Sprintf("%.4f", *v)
	case kind == compare.Perplexity:
		return fmt.Sprintf("%.2f", *v)
	case kind == compare.Seconds:
		return spell(seconds(*v))
	}
	return fmt.Sprint(math.Round(*v))
}

// masksText has a table for each two runs.
func masksText(b *strings.Builder, pairs []compare.Pair) {
	for i, p := range pairs {
		if i > 0 {
			fmt.Fprintln(b)
		}
		fmt.Fprintf(b, "A = %s, B = %s. Overlap: what both removed (kept), of what either did; by lot: the same if chosen at random.\n\n", p.A, p.B)
		table := [][]string{{"", "of", "A removed", "B removed", "both", "overlap", "by lot", "kept: overlap", "by lot"}}
		for _, kind := range []struct {
			name string
			list []compare.Overlap
		}{{"rows", p.Rows}, {"columns", p.Cols}, {"weights", p.Weights}} {
			for _, o := range kind.list {
				table = append(table, []string{kind.name + " of " + o.Role, fmt.Sprint(o.Structures), fmt.Sprint(o.RemovedA), fmt.Sprint(o.RemovedB), fmt.Sprint(o.RemovedBoth),
					share(o.Removed), share(o.RemovedByLot), share(o.Kept), share(o.KeptByLot)})
			}
		}
		aligned(b, table)
		if p.Rows == nil {
			fmt.Fprintln(b, "\nRows and columns are not compared: one of the two has no report.json.")
		}
	}
}

func share(x *float64) string {
	if x == nil {
		return "–"
	}
	return fmt.Sprintf("%.4f", *x)
}

// aligned writes a table: its first column to the left, the others to the right.
func aligned(b *strings.Builder, table [][]string) {
	width := make([]int, len(table[0]))
	for _, row := range table {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range table {
		line := row[0] + strings.Repeat(" ", width[0]-utf8.RuneCountInString(row[0]))
		for i, cell := range row[1:] {
			line += "  " + strings.Repeat(" ", width[i+1]-utf8.RuneCountInString(cell)) + cell
		}
		fmt.Fprintln(b, strings.TrimRight(line, " "))
	}
}
