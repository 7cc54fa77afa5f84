package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"surgeon/engine/device"
	"surgeon/engine/model"
	"surgeon/engine/report"
	"surgeon/engine/text"
)

// EvalOptions are what an evaluation is asked to do: perplexity on a text, accuracy on tasks, or both.
type EvalOptions struct {
	Model     string   `arg:"" name:"model" yaml:"model" help:"Hugging Face directory or GGUF file."`
	Text      []string `name:"text" yaml:"text" help:"Text to measure the perplexity on: .txt, .jsonl (field text), .parquet (column text), also .gz or .zst; quoted globs; repeat the flag for several. NAME=FILE, for all of them, measures each name." placeholder:"FILE" sep:"none" group:"data"`
	TextSkip  int64    `name:"text-skip" yaml:"text-skip" help:"Leave out the first N bytes of the text, of each where they have names." default:"0" placeholder:"BYTES" group:"data"`
	TextLimit int64    `name:"text-limit" yaml:"text-limit" help:"Use at most N bytes of the text, of each where they have names; 0 = all." default:"0" placeholder:"BYTES" group:"data"`
	Length    int      `name:"length" yaml:"length" help:"Tokens in a window; 0 = 2048, or what the model allows." default:"0" placeholder:"TOKENS" group:"data"`
	Windows   int      `name:"windows" yaml:"windows" help:"Measure the first N windows only, of each text; 0 = all." default:"0" group:"data"`
	Tasks     []string `name:"tasks" yaml:"tasks" help:"Multiple-choice questions to measure the accuracy on: .jsonl with the fields context, choices and answer, also .gz or .zst; quoted globs; repeat the flag for several." placeholder:"FILE" sep:"none" group:"tasks"`
	Results   string   `name:"results" yaml:"results" help:"File for the log-likelihoods of every question, a JSON line each. A stopped evaluation goes on with it." placeholder:"FILE" group:"tasks"`
	Batch     int      `name:"batch" yaml:"batch" help:"Windows, or choices, that go through the model at one time; 0 = 1 on the CPU, as many as fit on a GPU." default:"0" placeholder:"WINDOWS" group:"device"`
	Precision string   `name:"precision" yaml:"precision" help:"Arithmetic of the model: float32, float64, or bfloat16, which is for GPUs and takes half the memory." enum:"float32,float64,bfloat16" default:"float32" placeholder:"TYPE" group:"device"`

	Version string `kong:"-" yaml:"-"` // of the program
}

// Names are those of the texts, one "" where they have none.
func (o *EvalOptions) Names() ([]string, error) {
	texts, err := splitNames("text", o.Text)
	var names []string
	for _, t := range texts {
		names = append(names, t.name)
	}
	return names, err
}

// Evaluation is what an evaluation was asked for.
type Evaluation struct {
	Texts []report.Evaluation // perplexities, one per name, or one of all files where they have none
	Tasks []report.TaskScore  // one per file, in their order
}

// Evaluate measures perplexity on texts, accuracy on multiple-choice tasks, or both.
//
// Perplexity: a text is tokenised once, cut into non-overlapping windows, the tail dropped; the mean over windows of the
// mean next-token loss of each, in float64, exponentiated (method.md section 8).
//
// Accuracy: package tasks. With o.Results every item's log-likelihoods are kept in a file, batch after batch, and with the
// same file an evaluation that was stopped goes on and ends with the same bits.
func Evaluate(ctx context.Context, dev device.Device, o EvalOptions, w Watcher) (Evaluation, error) {
	var e Evaluation
	if err := o.Check(); err != nil {
		return e, err
	}
	in, err := openModel(o.Model)
	if err != nil {
		return e, err
	}
	defer in.Close()
	w.Stage("text", 0)
	var windows Options
	var passes []Options
	if len(o.Text) > 0 {
		if windows, err = in.readWindows(ctx, dev, o); err != nil {
			return e, err
		}
		passes = append(passes, windows)
	}
	var z *zeroShot
	if len(o.Tasks) > 0 {
		if z, err = in.readZeroShot(ctx, dev, o); err != nil {
			return e, err
		}
		defer z.close()
		passes = append(passes, z.settled)
	}
	if warning := in.evalCrowded(passes, dev.Memory(), report.ThisMachine("").MemoryBytes); warning != "" {
		w.Warn(warning)
	}
	w.Stage("load", 0)
	m, err := loadModel(ctx, model.LoadFixed, dev, in.model, o.Precision)
	if err != nil {
		return e, err
	}
	defer m.Free()
	made, unread := report.Read(filepath.Join(o.Model, reportName)) // nil where the model is not one of ours
	if unread != nil && !errors.Is(unread, fs.ErrNotExist) && !errors.Is(unread, syscall.ENOTDIR) {
		w.Warn(fmt.Sprintf("whether the model was pruned with this text is not known: %v", unread))
	}
	for i := range in.texts {
		p, err := in.perplexity(ctx, m, &in.texts[i], o.Model, o.Windows, windows.Batch, w)
		if err != nil {
			return e, err
		}
		p.Calibration = calibratedOn(made, in.texts[i].corpus, o.TextSkip, o.TextLimit)
		e.Texts = append(e.Texts, p)
	}
	if z != nil {
		e.Tasks, err = z.score(ctx, m, o.Model, w)
	}
	return e, err
}

// TextIdentity tells the texts that values of an option name from others: the SHA-256 of all of each, behind its name where it
// has one.
func TextIdentity(ctx context.Context, option string, values []string) (string, error) {
	named, err := splitNames(option, values)
	if err != nil {
		return "", err
	}
	var in inputs
	for _, n := range named {
		corpus, err := text.ReadCorpus(ctx, n.files)
		if err != nil {
			return "", unusable(err)
		}
		in.texts = append(in.texts, namedText{name: n.name, corpus: corpus})
	}
	return in.identity(), nil
}

// Check refuses what is wrong whatever the model and the files are.
func (o *EvalOptions) Check() error {
	if _, err := o.Names(); err != nil {
		return err
	}
	switch {
	case len(o.Text) == 0 && len(o.Tasks) == 0:
		return refuse("there is nothing to measure; give --text for a perplexity, --tasks for accuracies, or both")
	case len(o.Text) == 0 && (o.Length != 0 || o.Windows != 0 || o.TextSkip != 0 || o.TextLimit != 0):
		return refuse("--length, --windows, --text-skip and --text-limit say how a text is cut, and none is given; add --text or leave them out")
	case len(o.Tasks) == 0 && o.Results != "":
		return refuse("--results %s is for the results of tasks, and none is given; add --tasks or leave it out", o.Results)
	case o.Length != 0 && o.Length < 2:
		return refuse("--length is %d; a window needs at least 2 tokens to have a next one", o.Length)
	case o.Batch < 0:
		return refuse("--batch is %d; it cannot be negative", o.Batch)
	case o.Windows < 0:
		return refuse("--windows is %d; it cannot be negative", o.Windows)
	case o.TextSkip < 0 || o.TextLimit < 0:
		return refuse("--text-skip is %d and --text-limit is %d; neither can be negative", o.TextSkip, o.TextLimit)
	}
	return nil
}

// readWindows reads the texts and settles the batch of their windows.
func (in *inputs) readWindows(ctx context.Context, dev device.Device, o EvalOptions) (Options, error) {
	if err := in.readTexts(ctx, "text", o.Text, o.TextSkip, o.TextLimit, o.Length); err != nil {
		return Options{}, err
	}
	windows := 1
	for _, t := range in.texts {
		windows = max(windows, len(t.ids)/in.length)
	}
	if o.Windows > 0 {
		windows = min(windows, o.Windows)
	}
	passes := Options{Length: in.length, Samples: windows, HeldOut: windows, Batch: o.Batch, Precision: o.Precision}
	err := settleBatch(dev, in.model.Config, &passes, evalParts)
	return passes, err
}

// perplexity measures m, called name, on a text; at most so many windows, 0 = all.
func (in *inputs) perplexity(ctx context.Context, m *model.Model, t *namedText, name string, most, batch int, w Watcher) (report.Evaluation, error) {
	windows, err := text.PerplexityWindows(t.ids, in.length)
	if err != nil {
		return report.Evaluation{}, refuse("%s: %w", t, err)
	}
	if most > 0 && most < len(windows) {
		windows = windows[:most]
	}
	stage := "perplexity"
	if t.name != "" {
		stage += " on " + t.name
	}
	w.Stage(stage, len(windows))
	losses, err := meanLosses(ctx, m, windows, batch, "window", w.Step)
	m.Release()
	if err != nil {
		return report.Evaluation{}, err
	}
	e := report.NewEvaluation(name, t.files(), false, in.length, len(windows), mean(losses))
	e.Name, e.TextSHA256 = t.name, t.corpus.SHA256
	return e, nil
}

// readEvaluation reads the texts of --eval, if there are any.
func (r *run) readEvaluation(ctx context.Context) error {
	if len(r.options.Eval) == 0 {
		return nil
	}
	r.evaluation = &inputs{model: r.inputs.model, tokenizer: r.inputs.tokenizer}
	if err := r.evaluation.readTexts(ctx, "eval", r.options.Eval, 0, 0, r.options.Length); err != nil {
		return err
	}
	for i := range r.evaluation.texts {
		t := &r.evaluation.texts[i]
		if _, err := text.PerplexityWindows(t.ids, r.options.Length); err != nil {
			return refuse("%s: %w", t, err)
		}
	}
	return nil
}

// evaluate adds the perplexities on the texts of --eval to the report.
func (r *run) evaluate(ctx context.Context, name string) error {
	if r.evaluation == nil {
		return nil
	}
	for i := range r.evaluation.texts {
		t := &r.evaluation.texts[i]
		e, err := r.evaluation.perplexity(ctx, r.model, t, name, 0, r.options.Batch, r.watcher)
		if err != nil {
			return fmt.Errorf("perplexity of the %s model: %w", name, err)
		}
		e.Calibration = slices.ContainsFunc(r.inputs.texts, func(c namedText) bool { return common(c.corpus, t.corpus) })
		r.report.Evaluations = append(r.report.Evaluations, e)
	}
	return nil
}

// calibratedOn tells whether a model was made, by its report, with some of a text that was cut in this way: a file of the same
// content, of which both took some of the same bytes. Where a text has several files it is enough that they share one.
func calibratedOn(made *report.Report, t *text.Corpus, skip, limit int64) bool {
	if made == nil {
		return false
	}
	if len(made.Data.Files) == 1 && len(t.Files) == 1 {
		options, _ := made.Options.(map[string]any)
		part := func(name string) int64 { n, _ := options[name].(float64); return int64(n) }
		end := func(skip, limit int64) int64 {
			if limit == 0 {
				return math.MaxInt64
			}
			return skip + limit
		}
		if thenSkip := part("text-skip"); skip >= end(thenSkip, part("text-limit")) || thenSkip >= end(skip, limit) {
			return false
		}
	}
	return slices.ContainsFunc(made.Data.Files, func(f report.File) bool {
		return slices.ContainsFunc(t.Files, func(g text.File) bool { return f.SHA256 == g.SHA256 })
	})
}

// common tells whether a whole text holds some of the one that the calibration windows were drawn from, which may have been
// cut: both hold text of a file of the same content, or one lies in the other, however it was packed.
func common(calibration, whole *text.Corpus) bool {
	return shared(calibration, whole) != "" || strings.Contains(whole.Text, calibration.Text) || strings.Contains(calibration.Text, whole.Text)
}
