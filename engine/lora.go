package engine

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"surgeon/engine/checkpoint"
	"surgeon/engine/lora"
	"surgeon/engine/report"
)

// Rounds of low-rank corrections (package lora): one after the update of every shot, on a share of the calibration windows, and
// where it is asked for a last one on all of them after the last shot.
//
// What a round draws depends on the seed and on the number of its shot alone, and a shot is saved after its round, so a stopped
// run goes on in the same bits. A run that is stopped in the last round does that again from the weights of the last shot.

// lastRound stands for a shot's number in the last round.
const lastRound = 0

// loraStream keeps the generators of rounds apart from the one that windows are drawn with.
const loraStream = 1 << 63

// correctShot is the round after the update of a shot, nil without --lora. The loss after it is that of the shot.
func (r *run) correctShot(ctx context.Context, number int) (*report.LoraRound, error) {
	if !r.options.Lora {
		return nil, nil
	}
	before, _, err := r.heldOut(ctx, r.title+"check before lora")
	if err != nil {
		return nil, fmt.Errorf("check before it: %w", err)
	}
	round := &report.LoraRound{Windows: r.options.loraWindows(), Epochs: 1, LossBefore: before}
	return round, r.correct(ctx, r.title+"lora", number, round)
}

// correctLast is the round after the last shot, if there is one.
func (r *run) correctLast(ctx context.Context) error {
	if !r.options.Lora || r.options.LoraEpochs == 0 {
		return nil
	}
	round := &report.LoraRound{Windows: r.options.Samples, Epochs: r.options.LoraEpochs, LossBefore: r.heldOutLoss}
	if err := r.correct(ctx, "last round of lora", lastRound, round); err != nil {
		return err
	}
	var err error
	if round.LossAfter, _, err = r.heldOut(ctx, "check after the last round of lora"); err != nil {
		return fmt.Errorf("check after it: %w", err)
	}
	r.report.Final.Lora = round
	r.sayCorrected(round)
	return nil
}

// correct makes a round.
func (r *run) correct(ctx context.Context, stage string, number int, round *report.LoraRound) error {
	defer r.time("lora")()
	o := r.options
	r.watcher.Stage(stage, round.Windows*round.Epochs)
	chosen, seed := o.drawLora(number, round.Windows)
	var err error
	round.LeftOut, err = lora.Correct(ctx, r.model, r.calibration, chosen,
		lora.Options{Rank: o.LoraRank, Rate: o.LoraRate, Epochs: round.Epochs, Seed: seed}, r.watcher.Step)
	r.model.Release()
	return err
}

// drawLora draws so many of the calibration windows for the round of a shot, and the seed of its corrections.
func (o *Options) drawLora(number, windows int) (chosen []int, seed uint64) {
	rng := rand.New(rand.NewPCG(o.Seed, loraStream|uint64(number)))
	return rng.Perm(o.Samples)[:windows], rng.Uint64()
}

// sayCorrected tells what a round did to the held-out loss.
func (r *run) sayCorrected(round *report.LoraRound) {
	r.watcher.Say(fmt.Sprintf("low-rank corrections on %d calibration windows brought the held-out loss from %.4f to %.4f", round.Windows, round.LossBefore, round.LossAfter))
	if n := len(round.LeftOut); n > 0 {
		r.watcher.Say(fmt.Sprintf("%d layers have no weight left and were left out of it, %s first", n, round.LeftOut[0]))
	}
}

// loraWindows are the windows of a round after a shot: the share, rounded up, but for what is off by the rounding of a product.
func (o *Options) loraWindows() int {
	return min(o.Samples, max(1, int(math.Ceil(o.LoraShare*float64(o.Samples)-1e-9))))
}

// loraSteps are the steps of all rounds.
func (o *Options) loraSteps() int {
	if !o.Lora {
		return 0
	}
	return o.Shots*o.loraWindows() + o.LoraEpochs*o.Samples
}

// loraChecks are the times that the held-out loss is measured for rounds alone.
func (o *Options) loraChecks() int {
	if !o.Lora {
		return 0
	}
	return o.Shots + min(o.LoraEpochs, 1)
}

// checkLora refuses rounds that make no sense.
func (o *Options) checkLora() error {
	switch {
	case !o.Lora:
		for _, name := range o.Given {
			if strings.HasPrefix(name, "lora-") && !slices.Contains(o.Shared, name) && !o.isDefault(name) {
				return refuse("--%s is about low-rank corrections, which are not asked for; add --lora", name)
			}
		}
	case o.LoraRank < 1:
		return refuse("--lora-rank is %d; at least 1 is needed", o.LoraRank)
	case !(o.LoraRate > 0) || math.IsInf(o.LoraRate, 0):
		return refuse("--lora-rate is %v; it must be a number above 0, for example 1e-4", o.LoraRate)
	case !(o.LoraShare > 0 && o.LoraShare <= 1):
		return refuse("--lora-share is %v; it must lie above 0 and at most at 1", o.LoraShare)
	case o.LoraEpochs < 0:
		return refuse("--lora-epochs is %d; it cannot be negative, and 0 leaves the last round out", o.LoraEpochs)
	}
	return nil
}

// checkLoraRank refuses a rank that is no low one for a layer of the model.
func (o *Options) checkLoraRank(cfg checkpoint.Config) error {
	if !o.Lora {
		return nil
	}
	for _, l := range linears(cfg) {
		if o.LoraRank > min(l.Rows, l.Inputs()) {
			return refuse("--lora-rank is %d; the layer %s has %d rows and %d columns, and its rank is at most %d", o.LoraRank, l.Name, l.Rows, l.Inputs(), min(l.Rows, l.Inputs()))
		}
	}
	return nil
}

// loraIdentity adds to an identity what the rounds depend on. Without rounds there is nothing to add.
func (o *Options) loraIdentity(identity map[string]any) {
	if o.Lora {
		identity["--lora"], identity["--lora-rank"], identity["--lora-rate"] = true, o.LoraRank, o.LoraRate
		identity["--lora-share"], identity["--lora-epochs"] = o.LoraShare, o.LoraEpochs
	}
}
