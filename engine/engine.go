package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/model"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// Prune makes the model smaller, shot by shot, and writes it. It goes on where an earlier run with the same options was
// stopped. The report is complete when err is nil; a cancelled ctx ends the run at the next micro-batch, tensor, or piece of a
// file, with the work directory in good order, and err wraps ctx.Err(). After an error the report has the shots that are complete,
// or is nil where that is not known.
func Prune(ctx context.Context, dev device.Device, o Options, w Watcher) (*report.Report, error) {
	r, err := prepare(ctx, dev, o, w, false)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if done, err := r.alreadyWritten(ctx); done != nil || err != nil {
		return done, err
	}
	for _, dir := range r.options.Outputs() {
		checkpoint.RemoveLeft(filepath.Clean(dir)) // it may be what takes the room
	}
	if err := roomOnDisk(r.diskParts(), diskOf); err != nil { // better now than at the end
		return nil, err
	}
	if warning := r.crowded(report.ThisMachine("").MemoryBytes); warning != "" {
		r.warn(warning)
	}
	if !dev.Memory().Host && r.options.Precision == "float32" {
		w.Say("the model runs in float32, without tensor cores; --precision bfloat16 takes them, and half the memory for weights and activations")
	}
	if err := r.start(ctx); err != nil {
		if r.journal == nil {
			return nil, err
		}
		return r.report, err
	}
	for r.next <= r.options.Shots && r.report.Final.StoppedEarly == "" {
		if err := r.writeOnWay(ctx, r.next-1); err != nil {
			return r.report, err
		}
		if err := r.shot(ctx, r.next); err != nil {
			return r.report, fmt.Errorf("shot %d: %w", r.next, err)
		}
		r.next++
	}
	if err := r.finish(ctx); err != nil {
		return r.report, err
	}
	return r.report, nil
}

// shot is one turn of the method's loop, and a look at the loss.
func (r *run) shot(ctx context.Context, number int) error {
	target := r.options.scheduled(number)
	s := report.Shot{Number: number, Target: target, LossBefore: r.heldOutLoss, Seconds: map[string]float64{}}
	r.clock, r.title = s.Seconds, fmt.Sprintf("shot %d of %d: ", number, r.options.Shots)

	o, err := r.shrink(ctx, target)
	if err != nil {
		return err
	}
	s.Threshold, s.PredictedIncrease = o.Threshold, o.Predicted
	s.Reached = float64(o.Removed) / float64(o.Total)
	s.Reduction = float64(o.Removed) / float64(r.report.Model.Parameters)
	s.DampingsRaised, s.UpdateSteps = r.raised(o.Raised), o.Steps
	if o.FewTokens != "" {
		r.warn(fmt.Sprintf("shot %d: %s", number, o.FewTokens))
	}
	r.warnIfShort(s, o)
	r.warnIfBeyond(s)
	if s.Lora, err = r.correctShot(ctx, number); err != nil {
		return fmt.Errorf("lora: %w", err)
	}
	if s.LossAfter, s.LossesAfter, err = r.heldOut(ctx, r.title+"check"); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if s.Lora != nil {
		s.Lora.LossAfter = s.LossAfter
		r.sayCorrected(s.Lora)
	}
	if r.options.MaxLoss > 0 && s.LossAfter > r.options.MaxLoss {
		return r.stepBack(ctx, number, s.LossAfter)
	}
	if s.Warning = r.options.suspicious(s); s.Warning != "" {
		r.watcher.Warn(s.Warning)
	}
	return r.save(s)
}

// warnIfShort tells of a shot that could not remove what it should, for every matrix had lost what the step limit lets it lose.
func (r *run) warnIfShort(s report.Shot, o Outcome) {
	largest := 0 // of the rows and columns, in weights: the last one that was left may have been too large
	for _, l := range r.model.Linears() {
		largest = max(largest, l.Rows, l.Inputs())
	}
	if r.options.Structure == prune.RowCol && r.options.StepLimit < 1 && float64(o.Removed+largest) < s.Target*float64(o.Total) {
		r.warn(fmt.Sprintf("shot %d: %.2f %% of the weights are gone and %.2f %% should be; --step-limit %v let no matrix lose more in one shot, so that it takes more --shots, or a higher limit",
			s.Number, 100*s.Reached, 100*s.Target, r.options.StepLimit))
	}
}

// warnIfBeyond tells of a shot that went beyond its target, by more than a rounding of whole structures: what is dead goes
// first, whatever the target and the step limit say.
func (r *run) warnIfBeyond(s report.Shot) {
	before := 0.
	if n := len(r.report.Shots); n > 0 {
		before = r.report.Shots[n-1].Reached
	}
	if s.Reached > s.Target+beyond && s.Reached > before {
		r.warn(fmt.Sprintf("shot %d: %.2f %% of the weights are gone where %.2f %% should be: what was zero already, or has no input or no gradient in any calibration window, goes first and knows no limit; other text may need some of it, and more --samples tell",
			s.Number, 100*s.Reached, 100*s.Target))
	}
}

// beyond is what a target may be passed by without a word.
const beyond = 5e-4

// shrink is one turn of the method's loop (The LLM Surgeon, algorithm 1): measure the curvature, cost every structure, find
// one threshold for the whole model, remove what lies below it and re-fit the rest. Rows and columns are costed, selected and
// removed here; coupled units in units.go; single weights, and blocks of them, in weights.go.
func (t *turn) shrink(ctx context.Context, target float64) (Outcome, error) {
	factors, losses, err := t.measure(ctx)
	if err != nil {
		return Outcome{}, err
	}
	defer func() {
		if t.warm != factors {
			factors.Free()
		}
	}()
	o := Outcome{Losses: losses}
	if o.FewTokens, err = t.fewTokens(factors); err != nil {
		return Outcome{}, err
	}
	switch t.options.Structure {
	case prune.RowCol:
		err = t.shrinkRowCol(ctx, factors, target, &o)
	case prune.Unit:
		err = t.shrinkUnits(ctx, factors, target, &o)
	default:
		err = t.shrinkWeights(ctx, factors, target, &o)
	}
	if err != nil {
		return Outcome{}, err
	}
	if t.options.curvature().Warm() {
		factors.KeepWarm()
		t.warm = factors
	}
	if !t.options.predicts() {
		o.Predicted = nil
	}
	return o, nil
}

func (t *turn) shrinkRowCol(ctx context.Context, factors *curvature.Factors, target float64, o *Outcome) error {
	costs, raised, err := t.costs(ctx, factors)
	if err != nil {
		return err
	}
	selection, err := t.threshold(costs, target)
	if err != nil {
		return err
	}
	predicted, more, err := t.update(ctx, factors, costs, selection, o)
	if err != nil {
		return err
	}
	if selection.Threshold >= 0 {
		o.Threshold = &selection.Threshold
	}
	o.Removed, o.Total, o.Kept = selection.Removed, selection.Total, selection.Kept
	o.Predicted, o.Raised = &predicted, append(raised, more...)
	return nil
}

// measure runs the calibration windows through the model, and returns their losses too, where it had to run them.
func (t *turn) measure(ctx context.Context) (*curvature.Factors, []float64, error) {
	defer t.time("curvature")()
	o := t.options.curvature()
	t.stage("curvature", len(t.calibration)*o.Passes())
	warm := t.warm
	t.warm = nil // it is taken over
	factors, losses, err := curvature.Collect(ctx, t.model, t.calibration, t.options.Batch, o, warm, t.watcher.Step)
	t.model.Release()
	if err == nil {
		t.sayCut(factors)
	}
	return factors, losses, err
}

// costs predicts what the loss of every row and column would cost.
func (t *turn) costs(ctx context.Context, factors *curvature.Factors) ([]prune.LayerCosts, []prune.Raised, error) {
	defer t.time("costs")()
	var all []prune.LayerCosts
	var raised []prune.Raised
	err := t.eachGroup(ctx, "costs", factors, t.groups(), func(_ int, group []prune.Layer) error {
		alive, err := prune.Alive(t.dev, group)
		if err != nil {
			return err
		}
		costs, more, err := prune.Costs(t.dev, group, alive, t.options.Cost, t.damping())
		all, raised = append(all, costs...), append(raised, more...)
		return err
	})
	return all, raised, err
}

// threshold selects what stays.
func (t *turn) threshold(costs []prune.LayerCosts, target float64) (prune.Selection, error) {
	defer t.time("threshold")()
	return prune.Select(costs, prune.Budget{Target: target, StepLimit: t.options.StepLimit, Ranking: t.options.RankBy})
}

// update removes and re-fits, and returns the predicted increase of the loss in nats per token. Layers are independent once
// their factors exist. The steps that took go into o.
func (t *turn) update(ctx context.Context, factors *curvature.Factors, costs []prune.LayerCosts, s prune.Selection, o *Outcome) (float64, []prune.Raised, error) {
	if err := t.settled(); err != nil {
		return 0, nil, err
	}
	defer t.time("update")()
	var predicted float64
	var raised []prune.Raised
	err := t.eachGroup(ctx, "update", factors, t.groups(), func(first int, group []prune.Layer) error {
		var alive []prune.Kept
		for i := range group {
			alive = append(alive, costs[first+i].Alive)
		}
		results, err := prune.Apply(t.dev, group, alive, s.Kept[first:first+len(group)], t.options.Update, t.damping(), t.options.Tolerance)
		for i, r := range results {
			t.model.Linears()[first+i].SetMatrix(r.W)
			t.dev.Free(r.W)
			predicted += r.Predicted
			raised = append(raised, r.Raised...)
			o.count(r.Iterations, len(t.model.Linears()))
		}
		return err
	})
	return predicted, raised, err
}

// heldOut is the mean loss over the held-out windows, in nats per token, and that over those of each named text.
func (r *run) heldOut(ctx context.Context, stage string) (float64, []report.TextLoss, error) {
	defer r.time("check")()
	r.watcher.Stage(stage, len(r.heldOutWindows))
	losses, err := meanLosses(ctx, r.model, r.heldOutWindows, r.options.Batch, "held-out window", r.watcher.Step)
	r.model.Release()
	if bad := (*model.NonFiniteLoss)(nil); errors.As(err, &bad) && r.options.Lora {
		err = fmt.Errorf("%w; if it did not before the corrections, lower --lora-rate", err)
	}
	if err != nil {
		return 0, nil, err
	}
	return mean(losses), r.inputs.lossesByText(losses), nil
}

// overflowError names the window whose loss is not finite.
type overflowError struct {
	sentence string
	err      *model.NonFiniteLoss
}

func (e *overflowError) Error() string { return e.sentence }
func (e *overflowError) Unwrap() error { return e.err }

// meanLosses are the mean losses of windows, batch after batch. what names a window in an error.
func meanLosses(ctx context.Context, m *model.Model, windows [][]int32, batch int, what string, step func(int)) ([]float64, error) {
	var all []float64
	for i := 0; i < len(windows); i += batch {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		losses, err := m.Losses(windows[i:min(i+batch, len(windows))])
		if err != nil {
			var bad *model.NonFiniteLoss
			if errors.As(err, &bad) {
				return nil, &overflowError{fmt.Sprintf("the loss of %s %d is %v: the model overflows there", what, i+bad.Sequence, bad.Loss), bad}
			}
			return nil, fmt.Errorf("%ss %d to %d: %w", what, i, min(i+batch, len(windows))-1, err)
		}
		all = append(all, losses...)
		step(len(all))
	}
	return all, nil
}

// How far the real increase of the loss may go beyond the predicted one before a shot is suspicious (method.md section 7):
// ten times, and more than a hundredth of a nat, which is about what a small held-out set varies by.
const (
	suspiciousRatio = 10
	suspiciousNats  = 0.01
)

// suspicious is a warning where the quadratic model did not hold, or "".
func (o *Options) suspicious(s report.Shot) string {
	rise := s.LossAfter - s.LossBefore
	if s.Lora != nil { // what is predicted is the update
		rise = s.Lora.LossBefore - s.LossBefore
	}
	if s.PredictedIncrease == nil || rise <= suspiciousNats || rise <= suspiciousRatio**s.PredictedIncrease {
		return ""
	}
	ways := "more --shots, higher --damp-g and --damp-a,"
	switch o.Structure {
	case prune.RowCol:
		ways = "more --shots, a smaller --step-limit, higher --damp-g and --damp-a,"
	case prune.Unit:
		ways = "more --shots, a higher --damp-a,"
	}
	return fmt.Sprintf("shot %d: the held-out loss rose by %.4f nats where %.4f were predicted: the step is too large or the damping too small for this text; "+
		"try %s or more --samples", s.Number, rise, *s.PredictedIncrease, ways)
}

func mean(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	var sum float64
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}
