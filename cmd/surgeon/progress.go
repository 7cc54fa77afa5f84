package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"golang.org/x/term"

	"surgeon/engine"
	"surgeon/engine/report"
)

// watcher shows what the engine tells.
type watcher interface {
	engine.Watcher
	// End says that no stage is running any more. It may be called again.
	End()
}

// newWatcher is a progress line and a table where stderr is a terminal, and one log line per step elsewhere.
func newWatcher(stderr io.Writer, c common, shots int) watcher {
	if terminalWidth(stderr) > 0 && !c.Quiet {
		return newLive(stderr, func() int { return terminalWidth(stderr) }, c.Verbose, shots, time.Now)
	}
	return newLines(stderr, c, shots, time.Now)
}

// terminalWidth is the columns of the terminal that w writes to, 0 where it writes to none, or to one that cannot move its
// cursor.
func terminalWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		return 80
	}
	return width
}

// schedule foresees the end of a run from the shots that this process has made. All shots take about the same time.
type schedule struct {
	shots   int       // of the run
	last    int       // number of the last complete one
	made    int       // by this process
	seconds float64   // that these took
	since   time.Time // when the last one was complete
}

func (p *schedule) shot(s report.Shot, now time.Time) {
	p.seconds += s.TotalSeconds()
	p.made++
	p.last, p.since = s.Number, now
}

// left is the time until the last shot is complete. It is not known before the first one.
func (p *schedule) left(now time.Time) (time.Duration, bool) {
	if p.made == 0 || p.last >= p.shots {
		return 0, false
	}
	each := p.seconds / float64(p.made)
	left := time.Duration(each*float64(p.shots-p.last)*float64(time.Second)) - now.Sub(p.since)
	return max(left, 0), true
}

// spell writes a duration for people: "4.2 s", "3 min 20 s", "2 h 05 min".
func spell(d time.Duration) string {
	s := d.Seconds()
	switch {
	case s < 9.95:
		return fmt.Sprintf("%.1f s", s)
	case s < 59.5:
		return fmt.Sprintf("%.0f s", s)
	}
	if m := int(math.Round(s)); m < 3600 {
		return fmt.Sprintf("%d min %02d s", m/60, m%60)
	}
	m := int(math.Round(s / 60))
	return fmt.Sprintf("%d h %02d min", m/60, m%60)
}
