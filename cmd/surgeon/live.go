package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"charm.land/lipgloss/v2"

	"surgeon/engine/report"
)

const (
	// drawEvery is the shortest time between two drawings of the progress line: faster than the eye asks for, and slow
	// enough to cost nothing.
	drawEvery = 100 * time.Millisecond
	// tickEvery is the longest: a window of a large model takes longer, and a line that stands still looks like a hang.
	tickEvery = time.Second

	barCells    = 20
	returnClear = "\r\x1b[K" // to the first column, and clear the line
)

// live shows a run on a terminal: a line of progress that is drawn over and over, and above it, for good, sentences and
// the rows of the table of shots.
type live struct {
	mu       sync.Mutex
	out      io.Writer
	width    func() int
	now      func() time.Time
	verbose  bool
	schedule schedule
	rows     int // of the table, written so far

	stage       string // "" between stages
	steps, done int
	began       time.Time
	drawn       time.Time
	stop        chan struct{} // ends the ticking
}

func newLive(out io.Writer, width func() int, verbose bool, shots int, now func() time.Time) *live {
	return &live{out: out, width: width, now: now, verbose: verbose, schedule: schedule{shots: shots}}
}

func (l *live) Stage(name string, steps int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endStage()
	l.stage, l.steps, l.done, l.began = name, steps, 0, l.now()
	l.draw()
	if l.stop == nil {
		l.stop = make(chan struct{})
		go l.tick(l.stop)
	}
}

func (l *live) Step(done int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = done
	if l.now().Sub(l.drawn) >= drawEvery {
		l.draw()
	}
}

func (l *live) Say(sentence string) { l.above(lipgloss.NewStyle().Faint(true).Render(sentence)) }

func (l *live) Warn(sentence string) {
	l.above(lipgloss.NewStyle().Foreground(lipgloss.Yellow).Render("warning:") + " " + sentence)
}

func (l *live) Shot(s report.Shot) {
	l.mu.Lock()
	l.endStage()
	l.schedule.shot(s, l.now())
	l.rows++
	first := l.rows == 1
	l.mu.Unlock()
	row := shotRow(s, l.schedule.shots)
	if line := lossesLine(s); line != "" {
		row += "\n" + lipgloss.NewStyle().Faint(true).Render(line)
	}
	if first {
		row = shotHeader() + "\n" + row
	}
	l.above(row)
}

func (l *live) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endStage()
	if l.stop != nil {
		close(l.stop)
		l.stop = nil
	}
}

// above writes lines above the progress line.
func (l *live) above(lines string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stage != "" {
		io.WriteString(l.out, returnClear)
	}
	lipgloss.Fprintln(l.out, lines)
	if l.stage != "" {
		l.draw()
	}
}

// endStage clears the line; with --verbose it leaves what the stage took.
func (l *live) endStage() {
	if l.stage == "" {
		return
	}
	io.WriteString(l.out, returnClear)
	if l.verbose {
		lipgloss.Fprintln(l.out, lipgloss.NewStyle().Faint(true).Render(fmt.Sprintf("%s: %s", l.stage, spell(l.now().Sub(l.began)))))
	}
	l.stage = ""
}

// tick draws the line from time to time, however long a step takes.
func (l *live) tick(stop chan struct{}) {
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		l.mu.Lock()
		if l.stage != "" && l.stop == stop && l.now().Sub(l.drawn) >= tickEvery/2 {
			l.draw()
		}
		l.mu.Unlock()
	}
}

// draw writes the progress line over itself, cut to the width of the terminal: a line that wraps could not be overwritten.
func (l *live) draw() {
	line := []rune(l.line())
	if width := l.width() - 1; width > 0 && len(line) > width {
		line = append(line[:width-1], '…')
	}
	io.WriteString(l.out, returnClear+string(line))
	l.drawn = l.now()
}

func (l *live) line() string {
	var b strings.Builder
	b.WriteString(l.stage)
	elapsed := l.now().Sub(l.began)
	if l.steps > 0 {
		filled := barCells * l.done / l.steps
		fmt.Fprintf(&b, "  %s%s  %d/%d", strings.Repeat("━", filled), strings.Repeat("─", barCells-filled), l.done, l.steps)
	}
	switch {
	case l.done > 0 && elapsed > 0:
		left := time.Duration(float64(elapsed) / float64(l.done) * float64(l.steps-l.done))
		fmt.Fprintf(&b, "  %s  %s left", rate(float64(l.done)/elapsed.Seconds()), spell(left))
	case elapsed >= tickEvery:
		fmt.Fprintf(&b, "  %s", spell(elapsed))
	}
	if left, known := l.schedule.left(l.now()); known {
		fmt.Fprintf(&b, "  (all shots: %s left)", spell(left))
	}
	return b.String()
}

// rate writes steps per second, or seconds per step where that is the larger number.
func rate(perSecond float64) string {
	if perSecond >= 1 {
		return fmt.Sprintf("%.1f/s", perSecond)
	}
	return fmt.Sprintf("%.1f s each", 1/perSecond)
}
