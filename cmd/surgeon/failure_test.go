package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
)

// reacting reacts when a line with these words is written to it.
type reacting struct {
	bytes.Buffer
	words string
	react func()
}

func (r *reacting) Write(p []byte) (int, error) {
	if strings.Contains(string(p), r.words) {
		r.react()
	}
	return r.Buffer.Write(p)
}

// What would be caught: a model that somebody makes shorter during a run, for which the program prints a stack trace, or says that the
// request was wrong.
func TestTruncatedModel(t *testing.T) {
	for _, at := range []struct{ command, stage string }{{"prune", "load"}, {"prune", "rounding"}, {"plan", `"check of the weights"`}, {"eval", "load"}} {
		t.Run(at.command+" "+at.stage, func(t *testing.T) {
			tiny(t)
			stderr := &reacting{words: "msg=begin stage=" + at.stage, react: func() {
				if err := os.Truncate("model/model.safetensors", 1); err != nil {
					t.Error(err)
				}
			}}
			args := append([]string{at.command}, pruneArgs()[1:]...)
			if at.command == "eval" {
				args = []string{"eval", "model", "--text", "text.txt", "--length", "32"}
			}
			code := run(args, io.Discard, stderr)
			if last := lastLine(stderr.String()); code != exitFailed || !strings.HasPrefix(last, "surgeon: ") ||
				!strings.Contains(last, "model/model.safetensors became shorter while it was read") || !strings.HasSuffix(last, "put back what it was, and give the same command again") {
				t.Errorf("exit code %d:\n%s", code, stderr)
			}
		})
	}
}
