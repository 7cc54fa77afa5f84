package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
	"surgeon/engine/internal/stop"
	"surgeon/engine/model"
	"surgeon/engine/report"
	"surgeon/engine/text"
)

// inputs are the opened model and texts of a run. Opening them finds everything that can be refused before any work is done.
type inputs struct {
	model     *checkpoint.Checkpoint
	tokenizer *text.Tokenizer
	json      []byte // tokenizer.json, rebuilt where the model is a GGUF
	texts     []namedText
	length    int // tokens in a window
}

// openModel opens a checkpoint and its tokenizer.
func openModel(path string) (*inputs, error) {
	c, err := checkpoint.Open(path)
	if err != nil {
		return nil, unusable(err)
	}
	in := &inputs{model: c}
	in.json, err = tokenizerJSON(c)
	if err == nil {
		in.tokenizer, err = text.ParseTokenizer(in.json)
	}
	if err != nil {
		c.Close()
		return nil, refuse("the tokenizer of %s: %w", path, err)
	}
	return in, nil
}

// loadModel brings a model to the device by model.Load or model.LoadFixed. Weights that cannot be used are a wrong request; a
// device that fails is not, nor a file that was written over meanwhile.
func loadModel(ctx context.Context, load func(context.Context, device.Device, *checkpoint.Checkpoint, device.Type) (*model.Model, error), dev device.Device, c *checkpoint.Checkpoint, precision string) (*model.Model, error) {
	m, err := load(ctx, dev, c, typeOf(precision))
	if err != nil && dev.Sync() == nil {
		err = unusable(err)
	}
	if err == nil {
		if err = c.Unchanged(); err != nil {
			m.Free()
		}
	}
	return m, err
}

// unusable makes what is wrong with files a wrong request. That somebody made one shorter while it was read is none, nor a stop.
func unusable(err error) error {
	if _, lost := errors.AsType[*checkpoint.Lost](err); lost || err == nil || stop.Asked(err) {
		return err
	}
	return &RequestError{err}
}

// typeOf is the type that a --precision stands for.
func typeOf(precision string) device.Type {
	switch precision {
	case "float64":
		return device.F64
	case "bfloat16":
		return device.BF16
	}
	return device.F32
}

// tokenizerJSON is the tokenizer.json of a directory, or the one that a GGUF's vocabulary amounts to.
func tokenizerJSON(c *checkpoint.Checkpoint) ([]byte, error) {
	if c.Format != checkpoint.GGUF {
		return c.TokenizerJSON()
	}
	v, err := c.Vocabulary()
	if err != nil {
		return nil, err
	}
	return text.VocabularyJSON(v)
}

func (in *inputs) Close() { in.model.Close() }

// checkOutputs is checkOutput for all directories that a run writes.
func (o *Options) checkOutputs(run string) error {
	for _, dir := range o.Outputs() {
		if err := checkOutput(dir, o.Model, o.Force, run); err != nil {
			return err
		}
	}
	return nil
}

// checkOutput refuses an output directory that is in use, unless it was written by this run: then the run was stopped
// between writing and cleaning up. With force, and before it advises force, it refuses one that must not be replaced. It is asked
// before any work is done, without the run's name, and when that is known.
func checkOutput(dir, model string, force bool, run string) error {
	_, err := os.Lstat(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return refuse("the output directory: %w", err)
	}
	inUse := err == nil && !force
	if inUse {
		if before, err := report.Read(filepath.Join(dir, reportName)); err == nil && (run == "" || before.Run == run) {
			return nil
		}
	}
	if err := checkpoint.MayWrite(dir, model, true); err != nil {
		return refuse("the output directory %s: %w", dir, err)
	}
	if inUse {
		return refuse("%s is there already; name another output directory, or add --force to replace it", dir)
	}
	return nil
}

// reportName is the report's file in the output directory.
const reportName = "report.json"

// mostInputs is the largest order of an input factor.
func mostInputs(c checkpoint.Config) (layer string, inputs int) {
	for _, l := range c.Linears() {
		n := l.Cols
		if l.Bias {
			n++
		}
		if n > inputs {
			layer, inputs = l.Name, n
		}
	}
	return layer, inputs
}

// tokensPerInput is how many calibration tokens an input factor needs for each of its columns to be worth inverting
// (method.md section 7).
const tokensPerInput = 4

// scarce is a warning where there is too little calibration text for the widest layer, or "".
func scarce(c checkpoint.Config, tokens int) string {
	layer, n := mostInputs(c)
	if tokens >= tokensPerInput*n {
		return ""
	}
	return fmt.Sprintf("%d calibration tokens are few for %s with its %d inputs: at least %d would make the input factors reliable; raise --samples or --length",
		tokens, layer, n, tokensPerInput*n)
}
