package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	"surgeon/engine/checkpoint"
	"surgeon/engine/checkpoint/safetensors"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/journal"
	"surgeon/engine/model"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// run is a pruning run between its start, or its resumption, and its end.
type run struct {
	turn
	inputs  *inputs
	journal *journal.Journal
	report  *report.Report // everything so far; saved with every shot

	heldOutWindows [][]int32
	evaluation     *inputs // the texts of --eval, or nil

	saving      *saving // the last shot, while it may not be in the work directory yet
	next        int     // the shot to come
	heldOutLoss float64
	started     time.Time
}

// prepare opens model and text and refuses what can be refused, of a run that is made or only planned. It writes nothing.
func prepare(ctx context.Context, dev device.Device, o Options, w Watcher, planned bool) (*run, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := o.checkOutputs(""); err != nil {
		return nil, err
	}
	if err := checkpoint.MayWriteIn(o.Work); err != nil {
		return nil, refuse("--work %s: %w", o.Work, err)
	}
	in, err := openModel(o.Model)
	if err != nil {
		return nil, err
	}
	if err := in.model.MayCarry(reportName, cardName); err != nil { // what files gives for a directory
		in.Close()
		return nil, refuse("the model %s: %w", o.Model, err)
	}
	r := &run{turn: turn{options: o, dev: dev, watcher: w, clock: map[string]float64{}}, inputs: in, next: 1, started: time.Now()}
	r.settle = r.saved
	if err := r.read(ctx, planned); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// read draws the windows and names the run; one that is planned, and that nothing is there to be confused with, without the checksum of
// the model: that takes as long as all else a plan does.
func (r *run) read(ctx context.Context, planned bool) error {
	o, in := &r.options, r.inputs
	r.watcher.Stage("text", 0)
	if err := in.readTexts(ctx, "text", o.Text, o.TextSkip, o.TextLimit, o.Length); err != nil {
		return err
	}
	o.Length = in.length
	if err := r.readEvaluation(ctx); err != nil {
		return err
	}
	var err error
	if r.calibration, r.heldOutWindows, err = in.windows(*o); err != nil {
		return err
	}
	if err := r.refuseOddBlocks(); err != nil {
		return err
	}
	if err := o.checkLoraRank(in.model.Config); err != nil {
		return err
	}
	leftOpen := o.Batch == 0
	if err := settleBatch(r.dev, in.model.Config, o, runParts); err != nil {
		return err
	}
	hash := ""
	if !planned || o.leftBefore() {
		r.watcher.Stage("checksum of the model", 0)
		if hash, err = in.model.Hash(ctx); err != nil {
			return unusable(err)
		}
	}
	if err := r.describe(hash); err != nil {
		return err
	}
	if leftOpen {
		if err := r.takeBatch(); err != nil {
			return err
		}
	}
	if err := o.checkOutputs(r.report.Run); err != nil {
		return err
	}
	if err := journal.Check(o.Work, r.identity()); err != nil {
		return &RequestError{err}
	}
	if warning := scarce(in.model.Config, len(r.calibration)*in.length); warning != "" && o.Curvature != curvature.Identity {
		r.warn(warning)
	}
	if warning := o.outOfReach(in.model.Config); warning != "" {
		r.warn(warning)
	}
	return nil
}

// leftBefore says whether there is something where the run is to write, which may be of this run, or of another one.
func (o *Options) leftBefore() bool {
	return slices.ContainsFunc(append(o.Outputs(), o.Work), func(path string) bool {
		_, err := os.Lstat(path)
		return !errors.Is(err, fs.ErrNotExist)
	})
}

// takeBatch takes the batch of the run that is in the work directory, where that differs in nothing else: what was free on the
// device when it began decided, something else may be free now, and the bits hang on it.
func (r *run) takeBatch() error {
	refusal, ok := errors.AsType[*journal.Refusal](journal.Check(r.options.Work, r.identity()))
	if !ok || len(refusal.Differences) != 1 || refusal.Differences[0].Field != "--batch" {
		return nil
	}
	batch, err := strconv.Atoi(refusal.Differences[0].There)
	if err != nil || batch < 1 {
		return nil // and it is refused
	}
	r.options.Batch = batch
	if err := settleBatch(r.dev, r.inputs.model.Config, &r.options, runParts); err != nil {
		return fmt.Errorf("the run in %s takes %d windows at a time: %w", r.options.Work, batch, err)
	}
	r.report.Options, r.report.Data.Batch = r.options, batch
	return r.name()
}

// takeWork takes the work directory.
func (r *run) takeWork(ctx context.Context) (err error) {
	r.journal, err = journal.Open(ctx, r.options.Work, r.identity(), journal.Settings{KeepShots: r.options.KeepShots, Hooks: r.options.hooks})
	var refusal *journal.Refusal
	if errors.As(err, &refusal) {
		return &RequestError{err}
	}
	return err
}

// start takes the work directory, loads the model, and brings it to where the run goes on.
func (r *run) start(ctx context.Context) error {
	o := r.options
	r.watcher.Stage("load", 0)
	var err error
	if r.model, err = loadModel(ctx, model.Load, r.dev, r.inputs.model, o.Precision); err != nil {
		return err
	}
	if err := r.takeWork(ctx); err != nil {
		return err
	}
	for _, s := range r.journal.Warnings() {
		r.warn(s)
	}
	if last, ok := r.journal.Last(); ok {
		return r.resume(ctx, last.Number)
	}
	if r.report.Dense.HeldOutLoss, r.report.Dense.HeldOutLosses, err = r.heldOut(ctx, "dense model"); err != nil {
		return fmt.Errorf("dense model: %w", err)
	}
	r.heldOutLoss = r.report.Dense.HeldOutLoss
	if o.MaxLoss > 0 && r.heldOutLoss > o.MaxLoss {
		if err := r.abandonWork(); err != nil {
			return err
		}
		return refuse("--max-loss is %v; the held-out loss of the dense model is %.4f nats already", o.MaxLoss, r.heldOutLoss)
	}
	return r.evaluate(ctx, "dense")
}

// identity is what the bits of the result depend on. A work directory belongs to one identity.
func (r *run) identity() map[string]any {
	o, c, evaluated := r.options, r.options.curvature(), ""
	tokenizer := sha256.Sum256(r.inputs.json) // it makes the windows, and is no part of the model's hash
	if r.evaluation != nil {
		evaluated = r.evaluation.identity()
	}
	identity := map[string]any{
		"--eval sha256": evaluated,
		"model sha256":  r.report.Model.SHA256, "tokenizer sha256": hex.EncodeToString(tokenizer[:]), "text sha256": r.inputs.identity(), "program": r.report.Program.Version, "device": r.dev.Bits(),
		"--samples": o.Samples, "--length": o.Length, "--held-out": o.HeldOut, "--seed": o.Seed,
		"--target": o.Target, "--shots": o.Shots, "--step-limit": o.StepLimit, "--rank-by": o.RankBy, "--cost": o.Cost, "--update": o.Update,
		"--curvature": c.Kind, "--fisher": c.Fisher, "--power-steps": c.PowerSteps, "--rank": c.Rank, "--fisher-samples": c.Samples, "--fisher-seed": c.Seed, "--damping": o.Damping, "--structure": o.Structure, "--scope": o.Scope, "--keep-biases": o.KeepBiases, "--group": o.Group, "--tolerance": o.Tolerance, "--sequential": o.Sequential,
		"--damp-g": o.DampG, "--damp-a": o.DampA, "--max-loss": o.MaxLoss, "--write-at": o.WriteAt, "--dtype": o.DType, "--batch": o.Batch, "--precision": o.Precision,
	}
	o.loraIdentity(identity)
	return identity
}

// resume brings back the weights and the report after a shot.
func (r *run) resume(ctx context.Context, number int) error {
	var s state
	err := r.restore(ctx, number, &s)
	if s.Report == nil {
		return err
	}
	r.report.Dense, r.report.Shots = s.Report.Dense, s.Report.Shots
	for _, warning := range s.Report.Warnings {
		if !slices.Contains(r.report.Warnings, warning) {
			r.report.Warnings = append(r.report.Warnings, warning)
		}
	}
	r.report.Evaluations = s.Report.Evaluations
	r.report.ResumedFrom = append(s.Report.ResumedFrom, number)
	if err != nil { // the report tells all the same what is complete
		return err
	}
	r.heldOutLoss, r.next = s.HeldOutLoss, number+1
	r.watcher.Say(fmt.Sprintf("going on after shot %d of %d", number, r.options.Shots))
	return nil
}

// restore loads the weights of a complete shot.
func (r *run) restore(ctx context.Context, number int, s *state) error {
	if err := r.saved(); err != nil {
		return err
	}
	file, err := r.journal.LoadShot(ctx, number, s)
	if err != nil {
		return err
	}
	defer file.Close()
	var buffer []byte // for what a device is given: nobody could turn the fault of one that reads a map into an error
	bytes := func(e safetensors.Entry) ([]byte, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		x, ok := file.Lookup(e.Name)
		if !ok || x.DType != e.DType || !slices.Equal(x.Shape, e.Shape) {
			return nil, fmt.Errorf("the work directory %s is not of this model: shot %d has no tensor %s of shape %v", r.options.Work, number, e.Name, e.Shape)
		}
		err := file.Guard(func() error {
			buffer = append(buffer[:0], file.Bytes(e.Name)...)
			return nil
		})
		return buffer, err
	}
	for _, e := range r.weights() {
		b, err := bytes(e)
		if err != nil {
			return err
		}
		r.model.Upload(e.Name, b, r.model.Type.Acc())
	}
	if o := r.options.curvature(); o.Warm() {
		if r.warm != nil {
			r.warm.Free()
		}
		r.warm = curvature.NewWarm(r.model, o)
		tensors := r.warm.Warmth()
		for i, e := range r.warmth() {
			b, err := bytes(e)
			if err != nil {
				return err
			}
			r.dev.Upload(b, tensors[i].Packed.Type, tensors[i].Packed)
		}
	}
	if err := r.dev.Sync(); err != nil {
		return fmt.Errorf("bringing shot %d back to the device: %w", number, err)
	}
	return nil
}

// stepBack undoes a shot that would pass --max-loss and ends the run with the model before it.
func (r *run) stepBack(ctx context.Context, number int, loss float64) error {
	r.report.Final.StoppedEarly = fmt.Sprintf("shot %d would bring the held-out loss to %.4f nats, above --max-loss %v", number, loss, r.options.MaxLoss)
	r.warn(r.report.Final.StoppedEarly + ": the model before it is kept")
	for _, share := range r.options.WriteAt {
		if r.options.shotAt(share) >= number {
			r.warn(fmt.Sprintf("the model at %v is not written: the run stops before it gets there", share))
		}
	}
	if last, ok := r.journal.Last(); ok {
		return r.restore(ctx, last.Number, &state{})
	}
	for _, e := range r.weights() { // before the first shot the last good model is the dense one
		if err := ctx.Err(); err != nil {
			return err
		}
		values := make([]float32, elements(e.Shape))
		if err := r.inputs.model.Read(e.Name, values); err != nil {
			return err
		}
		r.model.SetValues(e.Name, values)
	}
	if err := r.dev.Sync(); err != nil {
		return fmt.Errorf("bringing the dense model back to the device: %w", err)
	}
	return nil
}

// close gives everything back; the work directory stays.
func (r *run) close() {
	if err := r.saved(); err != nil { // a run that ends for another reason
		r.watcher.Warn(err.Error())
	}
	if r.journal != nil {
		r.journal.Close()
	}
	if r.warm != nil {
		r.warm.Free()
	}
	if r.model != nil {
		r.model.Free()
	}
	r.inputs.Close()
}

// removeWork removes the work directory of a complete run, unless it was asked for.
func (r *run) removeWork() error {
	if r.options.KeepsWork() {
		return nil
	}
	j := r.journal
	r.journal = nil
	return j.Remove()
}

// abandonWork leaves nothing of a run that is refused after it took the work directory; one that was named stays, empty.
func (r *run) abandonWork() error {
	j := r.journal
	r.journal = nil
	if r.options.workNamed {
		return j.Clear()
	}
	return j.Remove()
}

// raised lists, for each factor, the damping it took where that had to be raised: the higher one of costs and update.
func (r *run) raised(list []prune.Raised) []report.Damping {
	var all []report.Damping
	for _, d := range list {
		i := slices.IndexFunc(all, func(x report.Damping) bool { return x.Layer == d.Layer && x.Side == d.Factor })
		if i >= 0 {
			all[i].Share = max(all[i].Share, d.Share)
			continue
		}
		all = append(all, report.Damping{Layer: d.Layer, Side: d.Factor, Share: d.Share})
		r.watcher.Warn(fmt.Sprintf("layer %s: the factor %s is not positive definite with the damping asked for; it was raised to %g times the mean diagonal", d.Layer, d.Factor, d.Share))
	}
	return all
}

// seeds are those of everything that is drawn.
func (r *run) seeds() map[string]uint64 {
	seeds := map[string]uint64{"windows": r.options.Seed}
	if r.options.Fisher == curvature.Sampled {
		seeds["fisher"] = r.options.curvature().Seed
		r.watcher.Say(fmt.Sprintf("the tokens of the sampled Fisher are drawn with seed %d", seeds["fisher"]))
	}
	return seeds
}

// warn tells the user now and the reader of the report later.
func (r *run) warn(sentence string) {
	r.report.Warnings = append(r.report.Warnings, sentence)
	r.watcher.Warn(sentence)
}

// describe begins the report.
func (r *run) describe(modelHash string) error {
	o, in := r.options, r.inputs
	all, prunable := counts(in.model.Config)
	r.report = &report.Report{
		Program: report.ThisProgram(o.Version), Machine: report.ThisMachine(r.dev.Name()), Command: o.Command, Options: o,
		Seeds: r.seeds(), Structure: o.Structure.String(), Started: r.started.UTC(),
		Model: report.Model{Path: o.Model, Format: string(in.model.Format), Family: in.model.Config.Family, SHA256: modelHash, Parameters: all, Prunable: prunable},
		Data:  report.Data{Texts: in.reportTexts(), Windows: len(r.calibration), Length: in.length, Batch: o.Batch, HeldOut: len(r.heldOutWindows)},
	}
	for _, t := range in.texts {
		r.report.Data.Tokens += int64(len(t.ids))
		for _, f := range t.corpus.Files {
			r.report.Data.Files = append(r.report.Data.Files, report.File{Text: t.name, Name: f.Path, SHA256: f.SHA256, Bytes: f.Bytes})
		}
	}
	return r.name()
}

// name is the run's name in its report, a hash of its identity.
func (r *run) name() error {
	identity, err := json.Marshal(r.identity())
	if err != nil {
		return err
	}
	sum := sha256.Sum256(identity)
	r.report.Run = hex.EncodeToString(sum[:])
	return nil
}
