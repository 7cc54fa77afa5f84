package main

import (
	"fmt"
	"io"
	"strings"

	"charm.land/lipgloss/v2"

	"surgeon/engine/report"
)

// shotColumns are the columns of the table of shots. It grows by a row whenever a shot is complete, so their widths are
// fixed.
var shotColumns = []struct {
	title string
	width int
	cell  func(s report.Shot, shots int) string
}{
	{"shot", 7, func(s report.Shot, shots int) string { return fmt.Sprintf("%d/%d", s.Number, shots) }},
	{"target", 9, func(s report.Shot, _ int) string { return report.Percent(s.Target) }},
	{"removed", 9, func(s report.Shot, _ int) string { return report.Percent(s.Reached) }},
	{"loss before", 13, func(s report.Shot, _ int) string { return fmt.Sprintf("%.4f", s.LossBefore) }},
	{"after", 9, func(s report.Shot, _ int) string { return fmt.Sprintf("%.4f", s.LossAfter) }},
	{"increase", 10, func(s report.Shot, _ int) string { return fmt.Sprintf("%+.4f", s.LossAfter-s.LossBefore) }},
	{"predicted", 11, func(s report.Shot, _ int) string {
		if s.PredictedIncrease == nil {
			return "–"
		}
		return fmt.Sprintf("%+.4f", *s.PredictedIncrease)
	}},
	{"time", 12, func(s report.Shot, _ int) string { return spell(seconds(s.TotalSeconds())) }},
}

// shotHeader is the first line of the table. Losses are means on the held-out windows, in nats per token.
func shotHeader() string {
	var b strings.Builder
	for _, c := range shotColumns {
		b.WriteString(lipgloss.NewStyle().Bold(true).Width(c.width).Align(lipgloss.Right).Render(c.title))
	}
	return b.String()
}

// shotRow is the row of a shot, yellow where the shot is suspicious.
func shotRow(s report.Shot, shots int) string {
	var b strings.Builder
	for _, c := range shotColumns {
		style := lipgloss.NewStyle().Width(c.width).Align(lipgloss.Right)
		if s.Warning != "" {
			style = style.Foreground(lipgloss.Yellow)
		}
		b.WriteString(style.Render(c.cell(s, shots)))
	}
	return b.String()
}

// lossesLine is the loss on each named text after a shot, for below its row; "" where there is no more than one. Texts for
// which the line has no room are counted: report.json has all of them.
func lossesLine(s report.Shot) string {
	if len(s.LossesAfter) < 2 {
		return ""
	}
	room := 0
	for _, c := range shotColumns {
		room += c.width
	}
	line := "after, by text:"
	for i, l := range s.LossesAfter {
		next := fmt.Sprintf("  %s %.4f", l.Text, l.Loss)
		more := fmt.Sprintf("  and %d more", len(s.LossesAfter)-i)
		if needed := len(line) + len(next); needed > room || i+1 < len(s.LossesAfter) && needed+len(more) > room {
			return line + more
		}
		line += next
	}
	return line
}

// taskTable is a row per task: accuracies in percent, ± their standard errors.
func taskTable(scores []report.TaskScore) string {
	name := len("task")
	for _, s := range scores {
		name = max(name, lipgloss.Width(s.Task))
	}
	accuracy := func(share float64, stderr *float64) string {
		if stderr == nil {
			return report.Percent(share)
		}
		return fmt.Sprintf("%.2f ± %.2f %%", 100*share, 100**stderr)
	}
	var b strings.Builder
	row := func(task, items, acc, norm string) {
		fmt.Fprintf(&b, "%s%s%10s%18s%18s\n", task, strings.Repeat(" ", name-lipgloss.Width(task)), items, acc, norm)
	}
	row("task", "items", "acc", "acc_norm")
	for _, s := range scores {
		row(s.Task, fmt.Sprint(s.Items), accuracy(s.Accuracy, s.AccuracyError), accuracy(s.AccuracyNorm, s.AccuracyNormError))
	}
	return b.String()
}

// tabled shows the table of shots on out and leaves the rest to the watcher.
type tabled struct {
	watcher
	out   io.Writer
	shots int
}

func (t *tabled) Shot(s report.Shot) {
	if s.Number == 1 {
		lipgloss.Fprintln(t.out, shotHeader())
	}
	lipgloss.Fprintln(t.out, shotRow(s, t.shots))
	if line := lossesLine(s); line != "" {
		lipgloss.Fprintln(t.out, line)
	}
}
