package compare

import (
	"fmt"
	"slices"

	"surgeon/engine/report"
)

// Kind is the unit of a figure.
type Kind string

const (
	Share      Kind = "share" // between 0 and 1
	Count      Kind = "count"
	Loss       Kind = "loss" // nats per token
	Perplexity Kind = "perplexity"
	Seconds    Kind = "seconds"
)

// Figure is one number of several runs' reports.
type Figure struct {
	Name   string     `json:"figure"`
	Kind   Kind       `json:"kind"`
	Values []*float64 `json:"values"` // in the order of the runs; nil where a run has no such figure

	// Of a perplexity: the text's SHA-256, where a report tells it, and how it was measured on what model.
	text, measured string
}

// Figures are the numbers of the runs' reports, side by side. A perplexity stands beside others of the same text and windows
// only: of a text with the same content, whatever its files are called, or of the same name where one of the reports does not
// tell what the content was. The time is that of the process that finished a run, with the shots that others before it had
// made. All runs must have a report.
func Figures(runs []Run) []Figure {
	var all []Figure
	at := func(same func(Figure) bool, f Figure) *Figure {
		i := slices.IndexFunc(all, same)
		if i < 0 {
			i = len(all)
			f.Values = make([]*float64, len(runs))
			all = append(all, f)
		}
		return &all[i]
	}
	set := func(run int, kind Kind, name string, value float64) {
		at(func(f Figure) bool { return f.Name == name && f.Kind == kind }, Figure{Name: name, Kind: kind}).Values[run] = &value
	}
	setPerplexity := func(run int, e report.Evaluation) {
		measured := fmt.Sprintf("%d windows of %d, %s", e.Windows, e.Length, e.Of)
		name := fmt.Sprintf("perplexity on %s, %s", textOf(e), measured)
		f := at(func(f Figure) bool { // a text without a hash may be any of that name
			return f.Kind == Perplexity && f.text == e.TextSHA256 && f.measured == measured && (f.text != "" || f.Name == name)
		}, Figure{Name: name, Kind: Perplexity, text: e.TextSHA256, measured: measured})
		f.Values[run] = &e.Perplexity
	}
	// The figures in their order; within one, all runs, so that those that only a later run has stand beside their like.
	for _, of := range []func(run int, r *report.Report){
		func(run int, r *report.Report) {
			if target, ok := option(r, "target").(float64); ok {
				set(run, Share, "target", target)
			}
		},
		func(run int, r *report.Report) { set(run, Share, "reached", r.Final.Sparsity) },
		func(run int, r *report.Report) { set(run, Share, "of the whole model", r.Final.Reduction) },
		func(run int, r *report.Report) { set(run, Count, "shots", float64(len(r.Shots))) },
		func(run int, r *report.Report) { set(run, Loss, "held-out loss, dense", r.Dense.HeldOutLoss) },
		func(run int, r *report.Report) { set(run, Loss, "held-out loss, pruned", r.Final.HeldOutLoss) },
		func(run int, r *report.Report) {
			for _, l := range r.Dense.HeldOutLosses {
				set(run, Loss, "held-out loss of "+l.Text+", dense", l.Loss)
			}
		},
		func(run int, r *report.Report) {
			for _, l := range r.Final.HeldOutLosses {
				set(run, Loss, "held-out loss of "+l.Text+", pruned", l.Loss)
			}
		},
		func(run int, r *report.Report) {
			for _, e := range r.Evaluations {
				setPerplexity(run, e)
			}
		},
		func(run int, r *report.Report) { set(run, Seconds, "time", seconds(r)) },
	} {
		for run, r := range runs {
			of(run, r.Report)
		}
	}
	tellApart(all)
	return all
}

// tellApart adds to the names of perplexities on texts of one name the beginnings of their hashes.
func tellApart(all []Figure) {
	names := map[string]int{}
	for _, f := range all {
		names[f.Name]++
	}
	for i := range all {
		if f := &all[i]; names[f.Name] > 1 && f.text != "" {
			f.Name += ", text " + f.text[:min(8, len(f.text))]
		}
	}
}

// seconds are what a run took: the process that finished it, and the shots before the last one at which it was taken up again.
// What a stopped process did beside complete shots is in no report.
func seconds(r *report.Report) float64 {
	sum, before := r.Seconds, 0
	if n := len(r.ResumedFrom); n > 0 {
		before = r.ResumedFrom[n-1]
	}
	for _, s := range r.Shots {
		if s.Number <= before {
			sum += s.TotalSeconds()
		}
	}
	return sum
}

func textOf(e report.Evaluation) string {
	if e.Name != "" {
		return e.Name + " (" + e.Text + ")"
	}
	return e.Text
}

// Differences are sentences about what keeps figures of later runs from being compared with those of the first: another
// model, another calibration text, other windows. Runs without a report are passed over.
func Differences(runs []Run) []string {
	var all []string
	var first *Run
	for i := range runs {
		switch {
		case runs[i].Report == nil:
		case first == nil:
			first = &runs[i]
		default:
			all = append(all, first.differences(runs[i])...)
		}
	}
	return all
}

func (r Run) differences(other Run) []string {
	var all []string
	a, b := r.Report, other.Report
	if a.Model.SHA256 != b.Model.SHA256 {
		all = append(all, fmt.Sprintf("%s was made from another model than %s: %s and %s, of other weights.", other.Dir, r.Dir, b.Model.Path, a.Model.Path))
	}
	if x, y := drawnFrom(a), drawnFrom(b); !slices.Equal(x, y) {
		all = append(all, fmt.Sprintf("%s was calibrated on another text than %s; the held-out losses are of other windows.", other.Dir, r.Dir))
	} else if x, y := windows(a), windows(b); x != y {
		all = append(all, fmt.Sprintf("%s has other windows of the same text than %s (%s and %s); the held-out losses are of other windows.", other.Dir, r.Dir, y, x))
	}
	return all
}

// drawnFrom is what a run's windows were drawn from: files, by their names and contents, and the part of them.
func drawnFrom(r *report.Report) []string {
	all := []string{fmt.Sprint(option(r, "text-skip"), " ", option(r, "text-limit"))}
	for _, f := range r.Data.Files {
		all = append(all, f.Text+"="+f.SHA256)
	}
	return all
}

func windows(r *report.Report) string {
	return fmt.Sprintf("%d and %d held out, of %d tokens, seed %d", r.Data.Windows, r.Data.HeldOut, r.Data.Length, r.Seeds["windows"])
}

// option is an option of the run as JSON has it, or nil.
func option(r *report.Report, name string) any {
	options, _ := r.Options.(map[string]any)
	return options[name]
}
