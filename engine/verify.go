package engine

import (
	"context"

	"surgeon/engine/device"
	"surgeon/engine/model"
)

// HeldOutLoss measures a model on the held-out windows that a run with options o draws, in nats per token. For the model
// that the run wrote, on the same device, it is the same number as the report's Final.HeldOutLoss, bit for bit: what was
// measured is what was written.
func HeldOutLoss(ctx context.Context, dev device.Device, path string, o Options, w Watcher) (float64, error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	in, err := openModel(path)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	if err := in.readText(o.Text, o.TextSkip, o.TextLimit, o.Length); err != nil {
		return 0, err
	}
	_, windows, err := in.windows(o)
	if err != nil {
		return 0, err
	}
	m, err := model.Load(dev, in.model, o.precision())
	if err != nil {
		return 0, &RequestError{err}
	}
	defer m.Free()
	w.Stage("held-out windows", len(windows))
	losses, err := meanLosses(ctx, m, windows, o.Batch, "held-out window", w.Step)
	return mean(losses), err
}
