package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/model"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// Prune makes the model smaller, shot by shot, and writes it. It goes on where an earlier run with the same options was
// stopped. The report is complete when err is nil; a cancelled ctx ends the run at the next micro-batch with the work
// directory in good order, and err wraps ctx.Err().
func Prune(ctx context.Context, dev device.Device, o Options, w Watcher) (*report.Report, error) {
	r, err := open(ctx, dev, o, w)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if done, err := r.alreadyWritten(); done != nil || err != nil {
		return done, err
	}
	for r.next <= r.options.Shots && r.report.Final.StoppedEarly == "" {
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

// shot is one turn of the method's loop (The LLM Surgeon, algorithm 1): measure the curvature, cost every row and column,
// find one threshold for the whole model, remove what lies below it and re-fit the rest, then look at the loss.
func (r *run) shot(ctx context.Context, number int) error {
	target := r.options.Target * float64(number) / float64(r.options.Shots)
	s := report.Shot{Number: number, Target: target, LossBefore: r.heldOutLoss, Seconds: map[string]float64{}}
	r.clock = s.Seconds

	factors, err := r.measure(ctx)
	if err != nil {
		return err
	}
	costs, raised, err := r.costs(ctx, factors)
	if err != nil {
		return err
	}
	selection, err := r.threshold(costs, target)
	if err != nil {
		return err
	}
	predicted, more, err := r.update(ctx, factors, costs, selection)
	if err != nil {
		return err
	}
	s.Threshold = selection.Threshold
	if factors != nil {
		factors.Free()
		s.PredictedIncrease = &predicted
	}
	s.Reached = float64(selection.Removed) / float64(selection.Total)
	s.Reduction = float64(selection.Removed) / float64(r.report.Model.Parameters)
	s.DampingsRaised = r.raised(append(raised, more...))
	if s.LossAfter, err = r.heldOut(ctx, r.stageName("check")); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if r.options.MaxLoss > 0 && s.LossAfter > r.options.MaxLoss {
		return r.stepBack(number, s.LossAfter)
	}
	if s.Warning = suspicious(s); s.Warning != "" {
		r.watcher.Warn(s.Warning)
	}
	return r.save(s, selection.Kept)
}

// measure runs the calibration windows through the model. Without curvature, for the magnitude baseline, there is nothing
// to measure.
func (r *run) measure(ctx context.Context) (*curvature.Factors, error) {
	if r.options.Cost == prune.Magnitude {
		return nil, nil
	}
	defer r.time("curvature")()
	r.stage("curvature", len(r.calibration))
	factors, _, err := curvature.Collect(ctx, r.model, r.calibration, r.options.Batch, r.watcher.Step)
	r.model.Release()
	return factors, err
}

// costs predicts what the loss of every row and column would cost.
func (r *run) costs(ctx context.Context, factors *curvature.Factors) ([]prune.LayerCosts, []prune.Raised, error) {
	defer r.time("costs")()
	layers := r.model.Linears()
	r.stage("costs", len(layers))
	all := make([]prune.LayerCosts, len(layers))
	var raised []prune.Raised
	for i := range layers {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		l := r.layer(factors, i)
		alive, err := prune.Alive(r.dev, l)
		if err == nil {
			var more []prune.Raised
			all[i], more, err = prune.Costs(r.dev, l, alive, r.options.Cost, r.damping())
			raised = append(raised, more...)
		}
		r.dev.Free(l.W)
		if err := r.failed(layers[i], err); err != nil {
			return nil, nil, fmt.Errorf("costs: %w", err)
		}
		r.watcher.Step(i + 1)
	}
	return all, raised, nil
}

// failed is the device's failure in the work on a layer, with its place, or else err: what the method finds wrong with
// numbers of a device that has failed means nothing.
func (r *run) failed(l *model.Linear, err error) error {
	if failure := r.dev.Sync(); failure != nil {
		return fmt.Errorf("block %d, layer %s: %w", l.Block, l.Name, failure)
	}
	return err
}

// threshold selects what stays.
func (r *run) threshold(costs []prune.LayerCosts, target float64) (prune.Selection, error) {
	defer r.time("threshold")()
	return prune.Select(costs, prune.Budget{Target: target, StepLimit: r.options.StepLimit, Ranking: r.options.Rank})
}

// update removes and re-fits, layer by layer, and returns the predicted increase of the loss in nats per token. Layers are
// independent once their factors exist.
func (r *run) update(ctx context.Context, factors *curvature.Factors, costs []prune.LayerCosts, s prune.Selection) (float64, []prune.Raised, error) {
	defer r.time("update")()
	layers := r.model.Linears()
	r.stage("update", len(layers))
	var predicted float64
	var raised []prune.Raised
	for i, linear := range layers {
		if err := ctx.Err(); err != nil {
			return 0, nil, err
		}
		l := r.layer(factors, i)
		result, err := prune.Apply(r.dev, l, costs[i].Alive, s.Kept[i], r.options.Update, r.damping())
		if err == nil {
			linear.SetMatrix(result.W)
			r.dev.Free(result.W)
			predicted += result.Predicted
			raised = append(raised, result.Raised...)
		}
		r.dev.Free(l.W)
		if err := r.failed(linear, err); err != nil {
			return 0, nil, fmt.Errorf("update: %w", err)
		}
		r.watcher.Step(i + 1)
	}
	return predicted, raised, nil
}

// heldOut is the mean loss over the held-out windows, in nats per token.
func (r *run) heldOut(ctx context.Context, stage string) (float64, error) {
	defer r.time("check")()
	r.watcher.Stage(stage, len(r.heldOutWindows))
	losses, err := meanLosses(ctx, r.model, r.heldOutWindows, r.options.Batch, "held-out window", r.watcher.Step)
	r.model.Release()
	return mean(losses), err
}

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
				return nil, fmt.Errorf("the loss of %s %d is %v: the model overflows there", what, i+bad.Sequence, bad.Loss)
			}
			return nil, fmt.Errorf("%ss %d to %d: %w", what, i, min(i+batch, len(windows))-1, err)
		}
		all = append(all, losses...)
		step(len(all))
	}
	return all, nil
}

// layer is the i-th linear layer as the method sees it; the caller frees its W.
func (r *run) layer(factors *curvature.Factors, i int) prune.Layer {
	linear := r.model.Linears()[i]
	l := prune.Layer{Name: linear.Name, W: linear.Matrix(device.F64)}
	if factors != nil {
		l.A, l.G = factors.Of(i)
	}
	return l
}

// stage tells the watcher that a stage of the coming shot begins.
func (r *run) stage(name string, steps int) { r.watcher.Stage(r.stageName(name), steps) }

func (r *run) stageName(name string) string {
	return fmt.Sprintf("shot %d of %d: %s", r.next, r.options.Shots, name)
}

func (r *run) damping() prune.Damping { return prune.Damping{G: r.options.DampG, A: r.options.DampA} }

// time adds the seconds until the returned function is called to a stage of the shot.
func (r *run) time(stage string) func() {
	start := time.Now()
	return func() { r.clock[stage] += time.Since(start).Seconds() }
}

// How far the real increase of the loss may go beyond the predicted one before a shot is suspicious (method.md section 7):
// ten times, and more than a hundredth of a nat, which is about what a small held-out set varies by.
const (
	suspiciousRatio = 10
	suspiciousNats  = 0.01
)

// suspicious is a warning where the quadratic model did not hold, or "".
func suspicious(s report.Shot) string {
	rise := s.LossAfter - s.LossBefore
	if s.PredictedIncrease == nil || rise <= suspiciousNats || rise <= suspiciousRatio**s.PredictedIncrease {
		return ""
	}
	return fmt.Sprintf("shot %d: the held-out loss rose by %.4f nats where %.4f were predicted: the step is too large or the damping too small for this text; "+
		"try more --shots, a smaller --step-limit, higher --damp-g and --damp-a, or more --samples", s.Number, rise, *s.PredictedIncrease)
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
