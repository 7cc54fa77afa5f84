package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"surgeon/engine/checkpoint"
	"surgeon/engine/checkpoint/safetensors"
	"surgeon/engine/device"
	"surgeon/engine/model"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// finish makes the last round of corrections, writes the model, and cleans up.
func (r *run) finish(ctx context.Context) error {
	if err := r.saved(); err != nil {
		return err
	}
	r.clock = map[string]float64{}
	if err := r.correctLast(ctx); err != nil {
		return fmt.Errorf("last round of lora: %w", err)
	}
	if err := r.write(ctx); err != nil {
		return err
	}
	if err := r.journal.Event("finished", map[string]int{"after_shot": len(r.report.Shots)}); err != nil {
		return err
	}
	return r.removeWork()
}

// write rounds the model to the type it is written in, removes what computes nothing any more, measures that, and writes it:
// the last loss is that of the file, not of a more exact model nobody gets.
func (r *run) write(ctx context.Context) error {
	source := r.inputs.model
	if err := r.inputs.model.Unchanged(); err != nil { // what was not pruned is copied from there
		return err
	}
	r.watcher.Stage("rounding", 0)
	options := checkpoint.WriteOptions{DType: safetensors.DType(r.options.DType), Force: r.options.Force, Changed: func(name string) ([]float32, bool, error) {
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		return r.changed(name)
	}}
	err := r.model.Round(func(name string, values []float32) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !r.prunes(name) { // the file gets it from the source, and a bfloat16 model holds it rounded already
			if err := source.Read(name, values); err != nil {
				return err
			}
		}
		return checkpoint.Round(values, source.OutputDType(name, options))
	})
	if failure := r.dev.Sync(); failure != nil {
		err = failure
	}
	if err != nil {
		return fmt.Errorf("rounding to the type of the file: %w", err)
	}
	if err := r.propagateDead(ctx); err != nil { // after rounding, which makes zeros too
		return fmt.Errorf("dead propagation: %w", err)
	}
	if err := r.checkBlocks(ctx); err != nil {
		return err
	}
	if r.report.Final.HeldOutLoss, r.report.Final.HeldOutLosses, err = r.heldOut(ctx, "check of the model as written"); err != nil {
		return fmt.Errorf("check of the model as written: %w", err)
	}
	if err := r.evaluate(ctx, "pruned"); err != nil {
		return err
	}

	r.watcher.Stage("write", 0)
	if options.Files, err = r.files(); err != nil {
		return err
	}
	err = checkpoint.Write(r.options.Output, source, options)
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%w; make room and give the same command again: it goes on after the last shot", err)
	}
	return err
}

// propagateDead zeroes what is structurally dead, which changes no output of the model, and fills in the report's layers.
func (r *run) propagateDead(ctx context.Context) error {
	layers := r.model.Linears()
	r.watcher.Stage("dead propagation", 2*len(layers))
	specs, kept := make([]checkpoint.Linear, len(layers)), make([]prune.Kept, len(layers))
	for i, l := range layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		w := r.layer(nil, i)
		alive, err := prune.Alive(r.dev, []prune.Layer{w})
		r.dev.Free(w.W)
		if err := r.failed(err, l); err != nil {
			return err
		}
		specs[i], kept[i] = l.Linear, alive[0]
		r.watcher.Step(i + 1)
	}
	prune.PropagateDead(r.inputs.model.Config, specs, kept)
	removed, total := 0, 0
	for i, l := range layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		w := l.Matrix(device.F64)
		restricted := prune.Restrict(r.dev, w, kept[i])
		l.SetMatrix(restricted)
		gone := l.Rows*l.Inputs() - kept[i].Weights()
		if r.options.Structure.SingleWeights() {
			gone = count(zeros(r.dev, restricted))
		}
		r.dev.Free(w, restricted)
		if err := r.failed(nil, l); err != nil {
			return err
		}
		r.report.Layers = append(r.report.Layers, report.Layer{Name: l.Name, Rows: l.Rows, Cols: l.Inputs(), Removed: gone,
			KeptRows: places(kept[i].Rows), KeptCols: places(kept[i].Cols)})
		total += l.Rows * l.Inputs()
		removed += gone
		r.watcher.Step(len(layers) + i + 1)
	}
	r.report.Final.Sparsity = float64(removed) / float64(total)
	if n := len(r.report.Shots); n > 0 && r.report.Final.Sparsity > r.report.Shots[n-1].Reached {
		r.watcher.Say(fmt.Sprintf("dead propagation: %.2f %% of the weights are gone now, %.2f %% after the last shot; the rest computed nothing any more",
			100*r.report.Final.Sparsity, 100*r.report.Shots[n-1].Reached))
	}
	r.report.Final.Reduction = float64(removed) / float64(r.report.Model.Parameters)
	return nil
}

func places(marks []bool) []int {
	x := []int{}
	for i, m := range marks {
		if m {
			x = append(x, i)
		}
	}
	return x
}

// changed hands the weights of the pruned layers to the writer; all else is copied from the source.
func (r *run) changed(name string) ([]float32, bool, error) {
	if !r.prunes(name) {
		return nil, false, nil
	}
	values := r.model.Values(name)
	if err := r.dev.Sync(); err != nil {
		return nil, false, fmt.Errorf("getting it from the device: %w", err)
	}
	return values, true, nil
}

// prunes says whether the tensor of that name is one that runs change.
func (r *run) prunes(name string) bool {
	return slices.ContainsFunc(r.model.Linears(), func(l *model.Linear) bool {
		return name == l.WeightName() || l.Bias && name == l.BiasName()
	})
}

// cardName is the file of the model card, beside reportName.
const cardName = "README.md"

// files go beside the weights: the report, the model card, and the tokenizer's files where the input had none.
func (r *run) files() (map[string][]byte, error) {
	r.report.PeakResidentBytes, r.report.PeakDeviceBytes = report.PeakResident(), r.dev.Memory().Peak
	r.report.PlannedDeviceBytes, _ = peak(runParts(r.inputs.model.Config, r.options))
	r.report.Seconds = time.Since(r.started).Seconds()
	if r.options.GPU != nil {
		r.report.GPU = r.options.GPU()
	}
	doc, err := r.report.JSON()
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{reportName: doc, cardName: r.report.Card()}
	if r.inputs.model.Format == checkpoint.GGUF {
		files["tokenizer.json"] = r.inputs.json
		files["tokenizer_config.json"], err = r.inputs.model.TokenizerConfigJSON()
	}
	return files, err
}

// alreadyWritten is the report of an output that this very run wrote before it was stopped in cleaning up, or nil.
func (r *run) alreadyWritten(ctx context.Context) (*report.Report, error) {
	done, err := report.Read(filepath.Join(r.options.Output, reportName))
	if err != nil || done.Run != r.report.Run || r.options.Force {
		return nil, nil
	}
	r.watcher.Say(fmt.Sprintf("%s holds the result of this run already", r.options.Output))
	asked, _ := done.Options.(map[string]any)
	if kept, _ := asked["keep-shots"].(bool); kept { // by that run, whatever this one asks for
		return done, nil
	}
	if _, err := os.Stat(r.options.Work); errors.Is(err, fs.ErrNotExist) {
		return done, nil
	}
	if err := r.takeWork(ctx); err != nil {
		return nil, err
	}
	return done, r.removeWork()
}
