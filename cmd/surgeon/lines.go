package main

import (
	"io"
	"log/slog"
	"time"

	"surgeon/engine/report"
)

// beatEvery is how often --verbose tells how far a long stage has come.
const beatEvery = 10 * time.Second

// lines shows a run as log lines: one when a stage begins and one when it ends, one per shot, none per window.
type lines struct {
	log      *slog.Logger
	now      func() time.Time
	schedule schedule

	stage       string // "" between stages
	steps       int
	began, beat time.Time
}

func newLines(out io.Writer, c common, shots int, now func() time.Time) *lines {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	switch {
	case c.Quiet:
		options.Level = slog.LevelWarn
	case c.Verbose:
		options.Level = slog.LevelDebug
	}
	var handler slog.Handler = slog.NewTextHandler(out, options)
	if c.LogFormat == "json" {
		handler = slog.NewJSONHandler(out, options)
	}
	return &lines{log: slog.New(handler), now: now, schedule: schedule{shots: shots}}
}

func (l *lines) Stage(name string, steps int) {
	l.End()
	l.stage, l.steps, l.began, l.beat = name, steps, l.now(), l.now()
	if steps > 0 {
		l.log.Info("begin", "stage", name, "steps", steps)
	} else {
		l.log.Info("begin", "stage", name)
	}
}

func (l *lines) Step(done int) {
	if l.now().Sub(l.beat) < beatEvery {
		return
	}
	l.beat = l.now()
	elapsed := l.now().Sub(l.began).Seconds()
	l.log.Debug("progress", "stage", l.stage, "done", done, "steps", l.steps, "per_second", short(float64(done)/elapsed))
}

func (l *lines) Say(sentence string)  { l.log.Info(sentence) }
func (l *lines) Warn(sentence string) { l.log.Warn(sentence) }

func (l *lines) Shot(s report.Shot) {
	l.End()
	l.schedule.shot(s, l.now())
	facts := []any{"number", s.Number, "of", l.schedule.shots, "target", s.Target, "reached", s.Reached, "loss_before", s.LossBefore, "loss_after", s.LossAfter}
	if s.PredictedIncrease != nil {
		facts = append(facts, "predicted_increase", *s.PredictedIncrease)
	}
	if left, known := l.schedule.left(l.now()); known {
		facts = append(facts, "left", left.Round(time.Second).String())
	}
	l.log.Info("shot", facts...)
}

func (l *lines) End() {
	if l.stage == "" {
		return
	}
	l.log.Info("end", "stage", l.stage, "seconds", short(l.now().Sub(l.began).Seconds()))
	l.stage = ""
}

// short keeps three decimals of a figure that nobody calculates with.
func short(x float64) float64 { return float64(int64(x*1000+0.5)) / 1000 }
