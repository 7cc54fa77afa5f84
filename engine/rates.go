package engine

import (
	"context"
	"crypto/sha256"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/lora"
	"surgeon/engine/model"
	"surgeon/engine/prune"
)

// rates are what was measured, each scaled to one unit of work of the run.
type rates struct {
	curvature float64 // seconds for one window: forward, backward, factors
	factors   float64 // seconds for what is made of the sums of all windows, but for projecting
	project   float64 // seconds per n³ for making a factor of a sum's further products positive semi-definite
	forward   float64 // seconds for one window forward
	lora      float64 // seconds for one step of low-rank corrections; too many where a shorter window was measured, for its products of A and B do not grow with windows
	costs     float64 // seconds per costWork
	update    float64 // seconds per updateWork
	threshold float64 // seconds per weight, for single weights
	bytes     float64 // seconds per byte hashed; writing to disk is not measured, as nothing is written
	load      float64 // seconds for loading the model's weights to the device
}

// measureSeconds is about how long Plan measures; the power method and eigenvectors take some times as long.
const measureSeconds = 2

// measureVocab is the vocabulary that passes and head are measured with; the head's time grows in proportion.
const measureVocab = 4096

// measure times the passes on models of one and of two blocks – the difference is one more block – with a small head, then
// the head, loading, and costs and updates on one layer.
func measure(ctx context.Context, dev device.Device, in *inputs, o Options) (rates, error) {
	var r rates
	cfg := in.model.Config
	windows, n := windowsToMeasure(dev, cfg, o)
	small := cfg
	small.Vocab = min(cfg.Vocab, measureVocab/16)
	var passes [2]passTimes
	for i := range min(2, cfg.Blocks) {
		small.Blocks, small.Window = i+1, cfg.Window[:i+1]
		m, err := model.Random(dev, small, typeOf(o.Precision), 1)
		if err != nil {
			return r, err
		}
		passes[i], err = timePasses(ctx, m, windows, n, o)
		m.Free()
		if err != nil {
			return r, err
		}
	}
	scale, each, blocks := float64(o.Length)/float64(n), 1/float64(windows), float64(cfg.Blocks-1)
	forward, both := timeHead(dev, cfg, n, o)
	r.curvature = scale * (each*(passes[0].curvature+blocks*max(0, passes[1].curvature-passes[0].curvature)) + both)
	r.factors = passes[0].factors + blocks*max(0, passes[1].factors-passes[0].factors)
	r.forward = scale * (each*(passes[0].forward+blocks*max(0, passes[1].forward-passes[0].forward)) + forward)
	if o.Lora {
		r.lora = scale * (passes[0].lora + blocks*max(0, passes[1].lora-passes[0].lora) + both)
	}
	if err := timeLoad(dev, in, o, &r); err != nil {
		return r, err
	}
	if o.Curvature == curvature.KronSum {
		if err := timeProject(dev, o, &r); err != nil {
			return r, err
		}
	}
	timePruning := timeRowCol
	if o.Structure.SingleWeights() {
		timePruning = timeWeights
	}
	few := o
	if o.Structure == prune.Unit { // the same products and factorisations
		few.Structure = prune.RowCol
	}
	few.Rank = min(o.Rank, 3) // more are solved alike, and their work grows as costWork and updateWork say
	if err := timePruning(dev, cfg, few, &r); err != nil {
		return r, err
	}
	block := make([]byte, 4<<20)
	start := time.Now()
	sha256.Sum256(block)
	r.bytes = time.Since(start).Seconds() / float64(len(block))
	return r, dev.Sync()
}

// twice calls f, which keeps the faster of its times, and calls it again, for the first time memory is new; not where that took so
// long that new memory cannot matter.
func twice(f func() error) error {
	start := time.Now()
	if err := f(); err != nil || time.Since(start).Seconds() > measureSeconds {
		return err
	}
	return f()
}

// windowsToMeasure are so many windows of so many tokens, whose passes of kfac, all tries of them, take about a third of the time there is: a
// part of one where that is much work, and up to a batch of the run where it is little, for one does not keep a GPU busy.
func windowsToMeasure(dev device.Device, cfg checkpoint.Config, o Options) (windows, tokens int) {
	rate := productRate(dev, typeOf(o.Precision))
	_, prunable := counts(cfg)
	factors := curvature.Bytes(0, linears(cfg), device.F32, curvature.Options{}) / 4 // of kfac: passes that are paired move more, and take about as long
	perToken := 2 * 3 * float64(6*prunable+2*factors) / float64(cfg.Blocks)          // two tries of one block and of two
	short := func(tokens int) bool { return float64(tokens)*perToken < rate*measureSeconds/3 }
	windows, tokens = 1, 16
	for tokens*2 <= o.Length && short(tokens*2) {
		tokens *= 2
	}
	if tokens*2 <= o.Length {
		return 1, tokens
	}
	tokens = min(tokens, o.Length)
	for windows*2 <= o.Batch && short(windows*2*tokens) {
		windows *= 2
	}
	return windows, tokens
}

// productRate is the FLOP in a second of a product that takes at least a millisecond, or is large enough.
func productRate(dev device.Device, t device.Type) float64 {
	for side := 384; ; side *= 2 {
		x, y := dev.Alloc(side, side, t), dev.Alloc(side, side, t)
		dev.Zero(x)
		var seconds float64
		for range 2 {
			start := time.Now()
			dev.Gemm(false, true, 1, x, x, 0, y)
			dev.Sync()
			seconds = time.Since(start).Seconds()
		}
		dev.Free(x, y)
		if seconds >= 1e-3 || side >= 3072 {
			return 2 * float64(side) * float64(side) * float64(side) / seconds
		}
	}
}

// timeHead is the seconds that the head takes for n tokens, forward only and forward and backward.
func timeHead(dev device.Device, cfg checkpoint.Config, n int, o Options) (forward, both float64) {
	v := min(cfg.Vocab, measureVocab)
	t := typeOf(o.Precision)
	x, head, dx := dev.Alloc(n, cfg.Width, t), dev.Alloc(v, cfg.Width, t), dev.Alloc(n, cfg.Width, t)
	logits, losses := dev.Alloc(n, v, t.Acc()), dev.Alloc(1, n, t.Acc())
	defer dev.Free(x, head, dx, logits, losses)
	dlogits := logits
	if t != t.Acc() {
		dlogits = dev.Alloc(n, v, t)
		defer dev.Free(dlogits)
	}
	dev.Zero(x)
	dev.Zero(head)
	targets := make([]int32, n)
	forward, both = math.Inf(1), math.Inf(1)
	for range 2 {
		start := time.Now()
		dev.Gemm(false, true, 1, x, head, 0, logits)
		dev.CrossEntropy(logits, targets, true, losses)
		dev.Sync()
		forward = min(forward, time.Since(start).Seconds())
		if dlogits != logits {
			dev.Copy(logits, dlogits)
		}
		dev.Gemm(false, false, 1, dlogits, head, 0, dx)
		dev.Sync()
		both = min(both, time.Since(start).Seconds())
	}
	scale := float64(cfg.Vocab) / float64(v)
	return scale * forward, scale * both
}

// timeLoad times one layer and takes it for all weights.
func timeLoad(dev device.Device, in *inputs, o Options, r *rates) error {
	l := in.model.Config.Linears()[0]
	start := time.Now()
	values := make([]float32, l.Rows*l.Cols)
	if err := in.model.Read(l.WeightName(), values); err != nil {
		return unusable(err)
	}
	x := device.NewFrom(dev, values, l.Rows, l.Cols, typeOf(o.Precision))
	dev.Sync()
	dev.Free(x)
	all, _ := counts(in.model.Config)
	r.load = time.Since(start).Seconds() * float64(all) / float64(len(values))
	return nil
}

// fewerPasses are options to measure in place of o, and how often what they take is taken by o: the power method with as few
// half steps, and further products, as there can be.
func fewerPasses(o curvature.Options) (fewer curvature.Options, times float64) {
	fewer = o
	fewer.Unprojected = true
	switch o.Kind {
	case curvature.Nearest:
		fewer.PowerSteps = 2
	case curvature.KronSum:
		fewer.PowerSteps, fewer.Rank = 4, 2
	default:
		return fewer, 1
	}
	return fewer, float64(o.Passes()) / float64(fewer.Passes())
}

type passTimes struct{ curvature, factors, forward, lora float64 }

// timePasses times each pass for so many windows of n tokens as one batch, those of lora for one.
func timePasses(ctx context.Context, m *model.Model, windows, n int, o Options) (passTimes, error) {
	rng := rand.New(rand.NewPCG(2, 0))
	batch := make([][]int32, windows)
	for w := range batch {
		batch[w] = make([]int32, n)
		for i := range batch[w] {
			batch[w][i] = int32(rng.IntN(m.Config.Vocab))
		}
	}
	measured, times := fewerPasses(o.curvature())
	collect := func(all [][]int32) (float64, error) {
		start := time.Now()
		f, _, err := curvature.Collect(ctx, m, all, windows, measured, nil, nil)
		if err != nil {
			return 0, err
		}
		seconds := time.Since(start).Seconds()
		f.Free()
		return times * seconds, nil
	}
	two := math.Inf(1) // batches
	best := passTimes{curvature: math.Inf(1), forward: math.Inf(1), lora: math.Inf(1)}
	err := twice(func() error {
		one, err := collect(batch)
		if err != nil {
			return err
		}
		best.curvature = min(best.curvature, one)
		if o.curvature().Warm() { // the power method does much that is not for each window
			both, err := collect(append(slices.Clone(batch), batch...))
			if err != nil {
				return err
			}
			two = min(two, both)
		}
		start := time.Now()
		if _, err := m.Losses(batch); err != nil {
			return err
		}
		best.forward = min(best.forward, time.Since(start).Seconds())
		if !o.Lora {
			return nil
		}
		// With a rate of 0 the work is the same and the weights stay: one that is too high would leave infinities to the next passes.
		start = time.Now()
		if _, err := lora.Correct(ctx, m, batch[:1], []int{0}, lora.Options{Rank: o.LoraRank, Epochs: 1}, nil); err != nil {
			return err
		}
		best.lora = min(best.lora, time.Since(start).Seconds())
		return nil
	})
	if o.curvature().Warm() {
		one := best.curvature
		best.curvature = min(one, max(0, two-one))
		best.factors = one - best.curvature
	}
	return best, err
}

// largestMeasured bounds the layer that costs and updates are timed on, so that the measurement stays short also where
// products run at a few GFLOP/s.
const largestMeasured = 640

// randomLayer is a layer of random weights and a random curvature of the kind asked for, of float32 sums.
func randomLayer(dev device.Device, rows, cols int, o Options) prune.Layer {
	rng := rand.New(rand.NewPCG(3, 0))
	random := func(r, c int, t device.Type) device.Tensor {
		values := make([]float32, r*c)
		for i := range values {
			values[i] = rng.Float32() - 0.5
		}
		return device.NewFrom(dev, values, r, c, t)
	}
	factor := func(n int) device.Sym {
		x := random(n+32, n, device.F32)
		s := device.AllocSym(dev, n, device.F32)
		dev.Gram(1/float64(n), []device.Tensor{x}, 0, []device.Sym{s})
		dev.Free(x)
		return s
	}
	l := prune.Layer{Name: "measured", W: random(rows, cols, device.F64)}
	if o.Curvature != curvature.Identity {
		l.A = factor(cols)
	}
	if c := o.curvature(); o.Curvature != curvature.Identity && o.Curvature != curvature.Activations {
		l.G = factor(rows)
		for range c.Rank - 1 {
			l.Rest = append(l.Rest, prune.Term{A: factor(cols), G: factor(rows)})
		}
	}
	if o.Curvature == curvature.Diagonal {
		l.Diagonal = device.NewFrom(dev, slices.Repeat([]float32{1. / 144}, rows*cols), rows, cols, device.F32) // the mean of its factors' product
	}
	return l
}

func freeLayer(dev device.Device, l prune.Layer) {
	for _, t := range append(l.Rest, l.Term) {
		dev.Free(t.A.Packed, t.G.Packed)
	}
	dev.Free(l.W, l.Diagonal)
}

// timeProject times a term of factors that are not small; eigendecompositions of small ones take more for each n³.
func timeProject(dev device.Device, o Options, r *rates) error {
	const n = largestMeasured / 2
	l := randomLayer(dev, n, n, o)
	defer freeLayer(dev, l)
	r.project = math.Inf(1)
	return twice(func() error {
		start := time.Now()
		if _, err := curvature.Project(dev, curvature.Term(l.Rest[0])); err != nil {
			return err
		}
		dev.Sync()
		r.project = min(r.project, time.Since(start).Seconds()/(2*n*n*n))
		return nil
	})
}

// measuredDamping is enough for random factors.
func (o *Options) measuredDamping() prune.Damping {
	return prune.Damping{G: 0.1, A: 0.1, Joint: o.Damping == jointDamping}
}

// timeRowCol times costs and update on a random layer with the proportions of down.
func timeRowCol(dev device.Device, cfg checkpoint.Config, o Options, r *rates) error {
	rows, cols := min(cfg.Width, largestMeasured), min(cfg.Inner, largestMeasured)
	l := randomLayer(dev, rows, cols, o)
	defer freeLayer(dev, l)
	layers, damp := []prune.Layer{l}, o.measuredDamping()
	kept := []prune.Kept{keptAfterShot(rows, cols, 1./16, 1./16)}
	r.costs, r.update = math.Inf(1), math.Inf(1)
	return twice(func() error {
		start := time.Now()
		alive, err := prune.Alive(dev, layers)
		if err != nil {
			return err
		}
		if _, _, err := prune.Costs(dev, layers, alive, o.Cost, damp); err != nil {
			return err
		}
		r.costs = min(r.costs, time.Since(start).Seconds()/o.costWork(rows, cols))
		start = time.Now()
		results, err := prune.Apply(dev, layers, alive, kept, o.Update, damp, o.Tolerance)
		if err != nil {
			return err
		}
		dev.Free(results[0].W)
		r.update = min(r.update, time.Since(start).Seconds()/o.updateWork(rows, cols, 0, 1./8, results[0].Iterations))
		return nil
	})
}

// timeWeights times costs and update of single weights on one layer, and a look at the costs.
func timeWeights(dev device.Device, cfg checkpoint.Config, o Options, r *rates) error {
	cols := min(cfg.Inner, largestMeasured)
	rows := min(cfg.Width, largestMeasured)
	l := randomLayer(dev, rows, cols, o)
	defer freeLayer(dev, l)
	rng := rand.New(rand.NewPCG(5, 0))
	gone := make([]bool, rows*cols)
	for i := range gone {
		gone[i] = rng.Float64() < o.Target
	}
	alive, err := prune.Alive(dev, []prune.Layer{l})
	if err != nil {
		return err
	}
	r.costs, r.update, r.threshold = math.Inf(1), math.Inf(1), math.Inf(1)
	return twice(func() error {
		start := time.Now()
		result, err := prune.ApplyElements(dev, l, alive[0], gone, o.Update, o.measuredDamping(), o.grouping())
		if err != nil {
			return err
		}
		dev.Free(result.W)
		r.update = min(r.update, time.Since(start).Seconds()/o.updateWork(rows, cols, 0, o.Target, result.Iterations))
		start = time.Now()
		all, _, err := prune.CostElements(dev, []prune.Layer{l}, alive, o.Cost, o.measuredDamping())
		if err != nil {
			return err
		}
		costs := all[0]
		defer costs.Free(dev)
		dev.Sync()
		r.costs = min(r.costs, time.Since(start).Seconds()/o.costWork(rows, cols))
		w := prune.Weights{Structure: prune.Element, Layers: []prune.WeightsOf{{Name: l.Name, Rows: rows, Cols: cols}},
			Costs: func(int) (device.Tensor, error) { return costs.Of(dev, l.W), nil }}
		start = time.Now()
		if _, err := prune.SelectWeights(dev, w, prune.InModel, o.Target); err != nil {
			return err
		}
		r.threshold = min(r.threshold, time.Since(start).Seconds()/float64(rows*cols))
		return nil
	})
}
