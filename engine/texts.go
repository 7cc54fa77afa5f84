package engine

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"surgeon/engine/internal/stop"
	"surgeon/engine/report"
	"surgeon/engine/text"
)

// namedText is one text of a run: all files that were given under one name, or all files where none has a name.
type namedText struct {
	name   string // "" where there are no names
	corpus *text.Corpus
	ids    []int32

	samples, heldOut int // windows drawn from it
}

// textName is how a value of --text or --eval begins that names its text: NAME=FILE. A path that looks like that is given as
// ./NAME=FILE.
var textName = regexp.MustCompile(`^([A-Za-z0-9_-]+)=`)

// namedFiles are the files of one text, as paths or globs.
type namedFiles struct {
	name  string
	files []string
}

// splitNames sorts the values of an option by their names, in the order in which the names come first. Without names all
// values are one text. It refuses values of which some have a name.
func splitNames(option string, values []string) ([]namedFiles, error) {
	var all []namedFiles
	for i, v := range values {
		name := ""
		if m := textName.FindStringSubmatch(v); m != nil {
			name = m[1]
		}
		if i > 0 && (name == "") != (all[0].name == "") {
			named, plain := v, values[0]
			if name == "" {
				named, plain = values[0], v
			}
			return nil, refuse("--%s %s has a name and --%s %s has none; give all of them a name, as NAME=FILE, or none (a file that is called so is ./%s)", option, named, option, plain, named)
		}
		if name != "" {
			if v = v[len(name)+1:]; v == "" {
				return nil, refuse("--%s %s= names no file; NAME=FILE is expected", option, name)
			}
		}
		at := slices.IndexFunc(all, func(n namedFiles) bool { return n.name == name })
		if at < 0 {
			at = len(all)
			all = append(all, namedFiles{name: name})
		}
		all[at].files = append(all[at].files, v)
	}
	if all == nil {
		all = []namedFiles{{}}
	}
	return all, nil
}

// checkNames refuses texts that are named wrongly, or too few windows for all of them, and fills in how many are held out.
func (o *Options) checkNames() error {
	texts, err := splitNames("text", o.Text)
	if err != nil {
		return err
	}
	if _, err := splitNames("eval", o.Eval); err != nil {
		return err
	}
	if o.HeldOut == 0 {
		o.HeldOut = max(len(texts), o.Samples/heldOutShare)
	}
	if o.Samples < len(texts) || o.HeldOut < len(texts) {
		return refuse("--samples is %d and --held-out is %d; each of the %d named texts needs at least one window of both kinds", o.Samples, o.HeldOut, len(texts))
	}
	return nil
}

// readTexts reads and tokenises the texts of an option, each by itself, and settles the length of the windows. What is
// skipped of a text, and its limit, count for each of them.
func (in *inputs) readTexts(ctx context.Context, option string, values []string, skip, limit int64, length int) error {
	named, err := splitNames(option, values)
	if err != nil {
		return err
	}
	in.texts = nil
	for _, n := range named {
		t, err := in.readText(ctx, n, skip, limit)
		if err != nil {
			return err
		}
		in.texts = append(in.texts, t)
	}
	most := in.model.Config.MaxPositions
	if length > most {
		return refuse("--length is %d tokens; %s has positions for %d", length, in.model.Path, most)
	}
	if length == 0 {
		length = min(defaultLength, most)
	}
	in.length = length
	return nil
}

// readText reads and tokenises a text as given, once, with the tokens that the tokenizer puts around a text.
func (in *inputs) readText(ctx context.Context, n namedFiles, skip, limit int64) (namedText, error) {
	t := namedText{name: n.name}
	var err error
	if t.corpus, err = text.ReadCorpus(ctx, n.files); err == nil && (skip > 0 || limit > 0) {
		t.corpus, err = t.corpus.Cut(skip, limit)
	}
	if stop.Asked(err) {
		return t, err
	}
	if err != nil {
		return t, refuse("%s: %w", strings.TrimSpace("text "+n.name), err)
	}
	if t.ids, err = in.tokenizer.EncodeContext(ctx, t.corpus.Text, true); err != nil {
		return t, err
	}
	if err := text.CheckVocab(t.ids, in.model.Config.Vocab); err != nil {
		return t, refuse("the tokenizer does not belong to the model: %w", err)
	}
	return t, nil
}

// windows draws the calibration and the held-out windows. Of several texts each gives the same number of both, and where
// that leaves a remainder the first ones give one more; each text's are drawn by itself, with the same seed, and come in the
// order of the texts. So what is drawn from one text does not depend on what the others hold.
func (in *inputs) windows(o Options) (calibration, heldOut [][]int32, err error) {
	for i := range in.texts {
		t := &in.texts[i]
		for _, before := range in.texts[:i] {
			if file := shared(before.corpus, t.corpus); file != "" {
				return nil, nil, refuse("--text: %s and %s both hold %s; windows that are held out of one text would calibrate the other, give each its own files", before.name, t.name, file)
			}
		}
		t.samples, t.heldOut = portion(o.Samples, len(in.texts), i), portion(o.HeldOut, len(in.texts), i)
		c, h, err := text.CalibrationWindows(t.ids, in.length, t.samples, t.heldOut, o.Seed)
		if err != nil {
			return nil, nil, refuse("%s: %w", t, err)
		}
		calibration, heldOut = append(calibration, c...), append(heldOut, h...)
	}
	return calibration, heldOut, nil
}

// portion is the i-th of n equal shares of whole windows, the first ones taking the remainder.
func portion(windows, n, i int) int {
	if i < windows%n {
		return windows/n + 1
	}
	return windows / n
}

// shared is a file of b with the content of one of a, or "".
func shared(a, b *text.Corpus) string {
	for _, f := range b.Files {
		if slices.ContainsFunc(a.Files, func(g text.File) bool { return g.SHA256 == f.SHA256 }) {
			return f.Path
		}
	}
	return ""
}

// lossesByText are the means of each named text's held-out windows, of which losses are those of all; nil without names.
func (in *inputs) lossesByText(losses []float64) []report.TextLoss {
	var all []report.TextLoss
	for _, t := range in.texts {
		if t.name != "" {
			all = append(all, report.TextLoss{Text: t.name, Loss: mean(losses[:t.heldOut])})
		}
		losses = losses[t.heldOut:]
	}
	return all
}

// reportTexts are the named texts and what was drawn from each, nil without names.
func (in *inputs) reportTexts() []report.Text {
	var all []report.Text
	for _, t := range in.texts {
		if t.name != "" {
			all = append(all, report.Text{Name: t.name, Tokens: int64(len(t.ids)), Windows: t.samples, HeldOut: t.heldOut})
		}
	}
	return all
}

// identity tells these texts from others: the SHA-256 of each behind its name, in their order.
func (in *inputs) identity() string {
	var all []string
	for _, t := range in.texts {
		if t.name == "" {
			return t.corpus.SHA256
		}
		all = append(all, t.name+"="+t.corpus.SHA256)
	}
	return strings.Join(all, " ")
}

// files are the names of the text's files.
func (t *namedText) files() string {
	var paths []string
	for _, f := range t.corpus.Files {
		paths = append(paths, f.Path)
	}
	return strings.Join(paths, " ")
}

// String names the text in an error.
func (t *namedText) String() string {
	if t.name == "" {
		return t.files()
	}
	return fmt.Sprintf("text %s, %s", t.name, t.files())
}
