package main

import (
	"context"
	"io"
	"log/slog"
	"math"
	"time"

	"surgeon/engine/report"
)

// How often a line tells how far a long stage has come: always, and with --verbose.
const (
	tellEvery = 5 * time.Minute
	beatEvery = 10 * time.Second
)

// lines shows a run as log lines: one when a stage begins and one when it ends, one per shot, none per window; and one every tellEvery.
type lines struct {
	log      *slog.Logger
	now      func() time.Time
	schedule schedule

	stage string // "" between stages
	steps int

	began, beat, told time.Time
}

func newLines(out io.Writer, c common, shots int, now func() time.Time) *lines {
	return &lines{log: newLog(out, c), now: now, schedule: schedule{shots: shots}}
}

func newLog(out io.Writer, c common) *slog.Logger {
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
	return slog.New(handler)
}

// jsonLog is where the program's own sentences go where every line is to be JSON, or nil. It is there before any watcher.
func (s *session) jsonLog() *slog.Logger {
	if !s.logJSON || terminalWidth(s.stderr) > 0 {
		return nil
	}
	return newLog(s.stderr, common{LogFormat: "json"})
}

func (l *lines) Stage(name string, steps int) {
	l.End()
	l.stage, l.steps = name, steps
	l.began, l.beat, l.told = l.now(), l.now(), l.now()
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
	level := slog.LevelDebug
	if l.now().Sub(l.told) >= tellEvery {
		l.told, level = l.now(), slog.LevelInfo
	}
	elapsed := l.now().Sub(l.began).Seconds()
	l.log.Log(context.Background(), level, "progress", "stage", l.stage, "done", done, "steps", l.steps, "per_second", short(float64(done)/elapsed))
}

func (l *lines) Say(sentence string)  { l.log.Info(sentence) }
func (l *lines) Warn(sentence string) { l.log.Warn(sentence) }

func (l *lines) Shot(s report.Shot) {
	l.End()
	l.schedule.shot(s, l.now())
	facts := []any{"number", s.Number, "of", l.schedule.shots,
		"target", places(s.Target, 4), "reached", places(s.Reached, 4), "loss_before", places(s.LossBefore, 6), "loss_after", places(s.LossAfter, 6)}
	if s.PredictedIncrease != nil {
		facts = append(facts, "predicted_increase", places(*s.PredictedIncrease, 6))
	}
	if len(s.LossesAfter) > 0 {
		var byText []any
		for _, x := range s.LossesAfter {
			byText = append(byText, x.Text, places(x.Loss, 6))
		}
		facts = append(facts, slog.Group("loss_after_by_text", byText...))
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

// short keeps three decimals of a figure that nobody calculates with; report.json has all of them.
func short(x float64) float64 { return places(x, 3) }

// places rounds x to n decimals, if it is a number.
func places(x float64, n int) float64 {
	scale := math.Pow10(n)
	return math.Round(x*scale) / scale
}
