package main

import (
	"fmt"
	"strings"
	"time"

	"surgeon/engine"
	"surgeon/engine/report"
)

type evalCommand struct {
	engine.EvalOptions `embed:""`

	JSON   bool `help:"Print the figures, or the error, as JSON on standard output." group:"general"`
	common `embed:""`
}

// Help stands below the summary in --help.
func (*evalCommand) Help() string {
	return `--text: a text is tokenised once and cut into windows that do not overlap; the perplexity is the exponential of the mean next-token loss. It can only be compared with one of the same text and the same window length.

--tasks: the model picks the choice that it finds the most likely behind the context (acc), or the most likely per character (acc_norm), as lm-evaluation-harness does. A line of the file is

	{"context": "The sky is", "choices": [" blue", " a fish"], "answer": 0}

where answer counts from 0, and a choice brings the space that is to stand in front of it.`
}

// evaluation is the JSON of eval.
type evaluation struct {
	Texts           []report.Evaluation `json:"texts,omitempty"`
	Tasks           []report.TaskScore  `json:"tasks,omitempty"`
	Seconds         float64             `json:"seconds"`                     // without reading the model, the texts and the tasks
	TokensPerSecond float64             `json:"tokens_per_second,omitempty"` // of the texts
}

func (c *evalCommand) Run(s *session) error {
	onward := ""
	if c.Results != "" { // a file to go on with
		onward = "with the questions that " + c.Results + " has no results of"
		s.onward.Store(onward)
	}
	dev, err := s.open(c.common, 0)
	if err != nil {
		return err
	}
	clock := &stopwatch{watcher: s.watcher}
	o := c.EvalOptions
	o.Version = programVersion()
	figures, err := engine.Evaluate(s.ctx, dev, o, clock)
	if err != nil && onward != "" {
		return s.goesOn(err, onward)
	}
	if err != nil {
		return err
	}
	clock.stop()
	e := evaluation{Texts: figures.Texts, Tasks: figures.Tasks}
	var tokens, reading float64
	for i, stage := range clock.stages { // the texts come first
		e.Seconds += stage.Seconds()
		if i < len(e.Texts) {
			tokens, reading = tokens+float64(e.Texts[i].Windows*e.Texts[i].Length), e.Seconds
		}
	}
	if len(e.Texts) > 0 {
		e.TokensPerSecond = tokens / reading
	}
	var b strings.Builder
	if c.JSON {
		if err := writeJSON(&b, e); err != nil {
			return fmt.Errorf("the figures: %w", err)
		}
		return s.print(b.String())
	}
	for _, p := range e.Texts {
		if p.Name != "" {
			fmt.Fprintf(&b, "%s: ", p.Name)
		}
		fmt.Fprintln(&b, perplexityText(p))
	}
	if len(e.Texts) > 0 {
		fmt.Fprintf(&b, "%.0f tokens per second.\n", e.TokensPerSecond)
	}
	if len(e.Tasks) > 0 {
		if len(e.Texts) > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(taskTable(e.Tasks))
	}
	return s.print(b.String())
}

// perplexityText is a perplexity with all that it depends on.
func perplexityText(e report.Evaluation) string {
	flattered := ""
	if e.Calibration {
		flattered = " This is calibration text: it flatters the pruned model."
	}
	return fmt.Sprintf("Perplexity %.4f on %s, %s of %d tokens (loss %.6f nats, %.4f bits per token).%s",
		e.Perplexity, e.Text, report.Counted(e.Windows, "window"), e.Length, e.Loss, e.Bits, flattered)
}

// stopwatch measures the stages that it hears of, but for reading texts and loading, which are none of evaluation.
type stopwatch struct {
	watcher
	began  time.Time
	stages []time.Duration
}

func (w *stopwatch) Stage(name string, steps int) {
	w.stop()
	if name != "text" && name != "load" {
		w.began = time.Now()
	}
	w.watcher.Stage(name, steps)
}

func (w *stopwatch) stop() {
	if !w.began.IsZero() {
		w.stages = append(w.stages, time.Since(w.began))
		w.began = time.Time{}
	}
}
