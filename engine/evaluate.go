package engine

import (
	"context"
	"strings"

	"surgeon/engine/device"
	"surgeon/engine/model"
	"surgeon/engine/report"
	"surgeon/engine/text"
)

// EvalOptions are what an evaluation is asked to do.
type EvalOptions struct {
	Model     string   `arg:"" name:"model" yaml:"model" help:"Hugging Face directory or GGUF file."`
	Text      []string `name:"text" yaml:"text" help:"Text to measure on: .txt, .jsonl (field text), .parquet (column text), also .gz or .zst; quoted globs; repeat the flag for several." required:"" placeholder:"FILE" sep:"none" group:"data"`
	TextSkip  int64    `name:"text-skip" yaml:"text-skip" help:"Leave out the first N bytes of the text." default:"0" placeholder:"BYTES" group:"data"`
	TextLimit int64    `name:"text-limit" yaml:"text-limit" help:"Use at most N bytes of the text; 0 = all." default:"0" placeholder:"BYTES" group:"data"`
	Length    int      `name:"length" yaml:"length" help:"Tokens in a window; 0 = 2048, or what the model allows." default:"0" placeholder:"TOKENS" group:"data"`
	Windows   int      `name:"windows" yaml:"windows" help:"Measure the first N windows only; 0 = all." default:"0" group:"data"`
	Batch     int      `name:"batch" yaml:"batch" help:"Windows that go through the model at one time." default:"1" placeholder:"WINDOWS" group:"device"`
	Precision string   `name:"precision" yaml:"precision" help:"Arithmetic of the model: float32 or float64." enum:"float32,float64" default:"float32" placeholder:"TYPE" group:"device"`
}

// Evaluate measures perplexity: the text is tokenised once, cut into non-overlapping windows, the tail dropped; the mean
// over windows of the mean next-token loss of each, in float64, exponentiated (method.md section 8).
func Evaluate(ctx context.Context, dev device.Device, o EvalOptions, w Watcher) (report.Evaluation, error) {
	var e report.Evaluation
	switch {
	case o.Length != 0 && o.Length < 2:
		return e, refuse("--length is %d; a window needs at least 2 tokens to have a next one", o.Length)
	case o.Batch < 1 || o.Windows < 0:
		return e, refuse("--batch is %d and --windows is %d; at least 1 and 0 are needed", o.Batch, o.Windows)
	case o.TextSkip < 0 || o.TextLimit < 0:
		return e, refuse("--text-skip is %d and --text-limit is %d; neither can be negative", o.TextSkip, o.TextLimit)
	}
	in, err := openModel(o.Model)
	if err != nil {
		return e, err
	}
	defer in.Close()
	if err := in.readText(o.Text, o.TextSkip, o.TextLimit, o.Length); err != nil {
		return e, err
	}
	windows, err := text.PerplexityWindows(in.ids, in.length)
	if err != nil {
		return e, refuse("%v: %w", o.Text, err)
	}
	if o.Windows > 0 && o.Windows < len(windows) {
		windows = windows[:o.Windows]
	}
	m, err := model.Load(dev, in.model, (&Options{Precision: o.Precision}).precision())
	if err != nil {
		return e, &RequestError{err}
	}
	defer m.Free()
	w.Stage("perplexity", len(windows))
	losses, err := meanLosses(ctx, m, windows, o.Batch, "window", w.Step)
	if err != nil {
		return e, err
	}
	return report.NewEvaluation(o.Model, strings.Join(o.Text, " "), false, in.length, len(windows), mean(losses)), nil
}
