package engine

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"surgeon/engine/model"
	"surgeon/engine/report"
)

// scheduled is the share of the weights that is gone after a shot: a third of 0.3 is the 0.1 that people write, and takes as many
// weights, though their quotient as a float64 lies below.
func (o *Options) scheduled(shot int) float64 {
	if shot == o.Shots {
		return o.Target
	}
	const places = 1e12
	return math.Round(o.Target*float64(shot)/float64(o.Shots)*places) / places
}

// shotAt is the shot on the way after which this share is gone, or 0.
func (o *Options) shotAt(share float64) int {
	for shot := 1; shot < o.Shots; shot++ {
		if math.Abs(o.scheduled(shot)-share) <= 1e-9 { // a target as people write it, divided
			return shot
		}
	}
	return 0
}

// checkWriteAt refuses shares that no shot ends at.
func (o *Options) checkWriteAt() error {
	if len(o.WriteAt) > 0 && o.Lora && o.LoraEpochs > 0 {
		return refuse("--write-at with --lora-epochs %d: the last round comes after the last shot, and the models on the way would go without it; leave one of them out", o.LoraEpochs)
	}
	for i, share := range o.WriteAt {
		if slices.Contains(o.WriteAt[:i], share) {
			return refuse("--write-at names %v twice", share)
		}
		if o.shotAt(share) > 0 {
			continue
		}
		var passed []string
		for shot := 1; shot < o.Shots; shot++ {
			passed = append(passed, strconv.FormatFloat(o.scheduled(shot), 'g', 6, 64))
		}
		if passed == nil {
			return refuse("--write-at %v: with one shot there is nothing on the way to --target %v", share, o.Target)
		}
		return refuse("--write-at %v: no shot on the way to --target %v ends there; they end at %s", share, o.Target, strings.Join(passed, ", "))
	}
	return nil
}

// OutputAt is the directory of the model that --write-at writes on the way.
func (o Options) OutputAt(share float64) string {
	return strings.TrimRight(o.Output, "/") + "-" + strconv.FormatFloat(share, 'g', -1, 64)
}

// Outputs are the directories of all models that the run writes, in their order.
func (o Options) Outputs() []string {
	var all []string
	for _, share := range o.WriteAt {
		all = append(all, o.OutputAt(share))
	}
	return append(all, o.Output)
}

// writeOnWay writes the model as it is after a shot, where --write-at asks for that, and leaves the run as it was: what is
// written is the model of a run that has this target and ends with this shot.
func (r *run) writeOnWay(ctx context.Context, shot int) error {
	i := slices.IndexFunc(r.options.WriteAt, func(share float64) bool { return r.options.shotAt(share) == shot })
	if i < 0 {
		return nil
	}
	if err := r.saved(); err != nil {
		return err
	}
	options, whole := r.options, r.report
	defer func() { r.options, r.report = options, whole }()
	r.options.Target, r.options.Shots, r.options.Output = options.WriteAt[i], shot, options.OutputAt(options.WriteAt[i])
	if done, err := report.Read(filepath.Join(r.options.Output, reportName)); err == nil && done.Run == whole.Run {
		return nil // the run was stopped after that
	}
	part := *whole
	part.Options, part.Shots, part.Evaluations = r.options, slices.Clone(whole.Shots), slices.Clone(whole.Evaluations)
	r.report = &part
	r.clock = map[string]float64{}
	if err := r.write(ctx); err != nil {
		return fmt.Errorf("the model at %v: %w", r.options.Target, err)
	}
	r.watcher.Say(fmt.Sprintf("the model at %v is written: %s", r.options.Target, r.options.Output))

	// What was rounded for the file, and is dead, comes back.
	r.model.Free()
	r.watcher.Stage("load", 0)
	var err error
	if r.model, err = loadModel(ctx, model.Load, r.dev, r.inputs.model, r.options.Precision); err != nil {
		return err
	}
	return r.restore(ctx, shot, &state{})
}
