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
	return `The text is tokenised once and cut into windows that do not overlap; the perplexity is the exponential of the mean next-token loss. It can only be compared with one of the same text and the same window length.`
}

// evaluation is the JSON of eval.
type evaluation struct {
	report.Evaluation
	Seconds         float64 `json:"seconds"` // without reading the model and the text
	TokensPerSecond float64 `json:"tokens_per_second"`
}

func (c *evalCommand) Run(s *session) error {
	dev, err := s.open(c.common, 0)
	if err != nil {
		return err
	}
	clock := &stopwatch{watcher: s.watcher}
	figures, err := engine.Evaluate(s.ctx, dev, c.EvalOptions, clock)
	if err != nil {
		return err
	}
	e := evaluation{Evaluation: figures, Seconds: time.Since(clock.began).Seconds()}
	e.TokensPerSecond = float64(e.Windows*e.Length) / e.Seconds
	if c.JSON {
		var b strings.Builder
		if err := writeJSON(&b, e); err != nil {
			return fmt.Errorf("the figures: %w", err)
		}
		return s.print(b.String())
	}
	return s.print(fmt.Sprintf("%s\n%.0f tokens per second.\n", perplexityText(figures), e.TokensPerSecond))
}

// perplexityText is a perplexity with all that it depends on.
func perplexityText(e report.Evaluation) string {
	return fmt.Sprintf("Perplexity %.4f on %s, %s of %d tokens (loss %.6f nats, %.4f bits per token).",
		e.Perplexity, e.Text, counted(e.Windows, "window"), e.Length, e.Loss, e.Bits)
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// stopwatch notes when the last stage began.
type stopwatch struct {
	watcher
	began time.Time
}

func (w *stopwatch) Stage(name string, steps int) {
	w.began = time.Now()
	w.watcher.Stage(name, steps)
}
