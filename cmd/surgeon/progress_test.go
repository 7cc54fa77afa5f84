package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"surgeon/engine/report"
)

// clock is a time that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) advance(d time.Duration) { c.t = c.t.Add(d) }

func testShot(number int) report.Shot {
	predicted := 0.0125
	return report.Shot{Number: number, Target: 0.15000000000000002, Reached: 0.149, LossBefore: 3.25, LossAfter: 3.2625, PredictedIncrease: &predicted,
		Seconds: map[string]float64{"curvature": 8, "update": 2}}
}

// play is a run of two shots as the engine would tell it.
func play(w watcher, c *clock) {
	w.Say("device: test")
	w.Stage("shot 1 of 2: curvature", 4)
	for i := range 4 {
		c.advance(2 * time.Second)
		w.Step(i + 1)
	}
	w.Stage("update", 2)
	c.advance(2 * time.Second)
	w.Step(2)
	w.Shot(testShot(1))
	w.Stage("shot 2 of 2: curvature", 4)
	c.advance(4 * time.Second)
	w.Step(2)
	w.Warn("something is odd")
	w.End()
}

// What would be caught: a wrong rate or time left, a line that wraps or is not cleared, a table without its header or with
// two, a sentence that the progress line overwrites.
func TestLive(t *testing.T) {
	c := &clock{t: time.Unix(0, 0)}
	var out bytes.Buffer
	l := newLive(&out, func() int { return 100 }, false, 2, c.now)
	play(l, c)
	text := out.String()
	for _, want := range []string{
		"device: test\n",
		"shot 1 of 2: curvature  ━━━━━━━━━━──────────  2/4  2.0 s each  4.0 s left",
		"   shot   target  removed  loss before    after  increase  predicted        time\n",
		"    1/2  15.00 %  14.90 %       3.2500   3.2625   +0.0125    +0.0125        10 s\n",
		"shot 2 of 2: curvature  ━━━━━━━━━━──────────  2/4  2.0 s each  4.0 s left  (all shots: 6.0 s left)",
		returnClear + "warning: something is odd\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%q", want, text)
		}
	}
	if n := strings.Count(text, "loss before"); n != 1 {
		t.Errorf("the header is there %d times", n)
	}
	if !strings.HasSuffix(text, returnClear) {
		t.Errorf("the line is left on the terminal: %q", text)
	}
	before := out.Len()
	l.End()
	if out.Len() != before {
		t.Errorf("a second End writes %q", text[before:])
	}
}

// What would be caught: a line longer than a narrow terminal, and a terminal that is drawn to for each of a million steps.
func TestLiveIsNarrowAndSlow(t *testing.T) {
	c := &clock{t: time.Unix(0, 0)}
	var out bytes.Buffer
	l := newLive(&out, func() int { return 30 }, false, 0, c.now)
	l.Stage("a stage with a rather long name", 1000)
	for i := range 1000 {
		c.advance(time.Millisecond)
		l.Step(i + 1)
	}
	l.End()
	draws := strings.Split(out.String(), returnClear)
	if len(draws) > 15 {
		t.Errorf("drawn %d times in a second", len(draws))
	}
	for _, line := range draws {
		if n := len([]rune(line)); n > 29 {
			t.Errorf("a line of %d columns in a terminal of 30: %q", n, line)
		}
	}
}

// What would be caught: a log line per window, a log that --quiet does not silence, JSON that is none.
func TestLines(t *testing.T) {
	for _, x := range []struct {
		name   string
		common common
		lines  int
		want   []string
	}{
		{"text", common{LogFormat: "text"}, 9, []string{`msg=begin stage="shot 1 of 2: curvature" steps=4`, `msg=end stage="shot 1 of 2: curvature" seconds=8`, "msg=shot number=1 of=2 target=0.15 reached=0.149", "predicted_increase=0.0125", "left=10s", "level=WARN"}},
		{"json", common{LogFormat: "json"}, 9, []string{`"msg":"shot","number":1`}},
		{"quiet", common{LogFormat: "text", Quiet: true}, 1, []string{"something is odd"}},
		{"verbose", common{LogFormat: "text", Verbose: true}, 9, nil},
	} {
		c := &clock{t: time.Unix(0, 0)}
		var out bytes.Buffer
		play(newLines(&out, x.common, 2, c.now), c)
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != x.lines {
			t.Errorf("%s: %d lines, want %d:\n%s", x.name, len(lines), x.lines, &out)
		}
		for _, want := range x.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %q in\n%s", x.name, want, &out)
			}
		}
		for _, line := range lines {
			if x.common.LogFormat == "json" && !json.Valid([]byte(line)) {
				t.Errorf("%s: not JSON: %s", x.name, line)
			}
		}
	}
	c := &clock{t: time.Unix(0, 0)}
	var out bytes.Buffer
	l := newLines(&out, common{Verbose: true}, 0, c.now)
	l.Stage("long", 100)
	for i := range 100 {
		c.advance(time.Second)
		l.Step(i + 1)
	}
	if n := strings.Count(out.String(), "msg=progress"); n != 10 {
		t.Errorf("--verbose tells %d times how far a stage of 100 s has come, want 10", n)
	}
}

// What would be caught: a log that says nothing for as long as a stage takes.
func TestLinesOfLongStages(t *testing.T) {
	c := &clock{t: time.Unix(0, 0)}
	var out bytes.Buffer
	l := newLines(&out, common{}, 0, c.now)
	l.Stage("long", 3600)
	for i := range 3600 {
		c.advance(time.Second)
		l.Step(i + 1)
	}
	if n := strings.Count(out.String(), "msg=progress"); n != 12 || !strings.Contains(out.String(), "done=300 steps=3600 per_second=1") {
		t.Errorf("a stage of an hour is told of %d times, want 12:\n%s", n, &out)
	}
}

// What would be caught: times that no one can read.
func TestSpell(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0 s", 9940 * time.Millisecond: "9.9 s", 9960 * time.Millisecond: "10 s", 59 * time.Second: "59 s", 59600 * time.Millisecond: "1 min 00 s",
		200 * time.Second: "3 min 20 s", 3599600 * time.Millisecond: "1 h 00 min", 125 * time.Minute: "2 h 05 min", 40 * time.Hour: "40 h 00 min",
	} {
		if got := spell(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

// What would be caught: a display that counts the shots of the command line where a preset has others.
func TestProgressOfAPreset(t *testing.T) {
	tiny(t)
	code, _, stderr := invoke("prune", "model", "--text", "text.txt", "--target", "0.3", "--samples", "12", "--length", "32", "-o", "out", "--preset", "magnitude", "--log-format", "text")
	if code != 0 || !strings.Contains(stderr, "number=1 of=1 ") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
