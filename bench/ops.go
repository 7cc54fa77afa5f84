package bench

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"time"

	"surgeon/engine/device"
	"surgeon/engine/device/devicetest"
)

// Row is a call of the device as it was measured.
type Row struct {
	Op    string `json:"operation"`
	Shape string `json:"shape"`
	Type  string `json:"type"`

	LeftOut string `json:"left_out,omitempty"` // why nothing was measured, and then all that follows is zero

	FLOP      float64 `json:"flop"`  // of a call
	Bytes     float64 `json:"bytes"` // that a call must at least move
	Calls     int     `json:"calls"`
	MinMs     float64 `json:"min_ms"`    // of the rounds, each a mean of its calls
	MedianMs  float64 `json:"median_ms"` // of the rounds
	Ceiling   string  `json:"ceiling"`   // "gemm" or "copy": what bounds the call
	OfCeiling float64 `json:"of_ceiling"`
	LibraryMs float64 `json:"library_ms,omitempty"` // of the library's calls that give the same, the fastest round
	OfLibrary float64 `json:"of_library,omitempty"` // time as a multiple of the library's
	Checksum  float64 `json:"checksum"`

	rounds []float64 // seconds per call
	calls  []int     // in each round
}

// Name is "Gram ones=0 beta=1/16384×4096/bfloat16".
func (r Row) Name() string { return r.Op + "/" + r.Shape + "/" + r.Type }

// Rate is the FLOP or bytes per second of the fastest round, by what bounds the call, in units of 10⁹.
func (r Row) Rate() (value float64, unit string) {
	if r.Ceiling == "gemm" {
		return r.FLOP / r.MinMs / 1e6, "GFLOP/s"
	}
	return r.Bytes / r.MinMs / 1e6, "GB/s"
}

// OpsOptions choose what Ops measures.
type OpsOptions struct {
	Type    device.Type    // of the model
	Filter  *regexp.Regexp // of names; nil for all
	Seconds float64        // after which no further row is begun; 0 for no bound
}

const (
	// rowSeconds is about how long a row is measured, and roundsAtLeast how often in any case.
	rowSeconds    = 0.3
	roundsAtLeast = samples
	// roundAtLeast makes the wait for the device at the end of a round, some 10 µs, nothing beside it.
	roundAtLeast = 5 * time.Millisecond
	// callSeconds is the longest a call may take, going by the ceilings: a table of the shapes of large models is nothing that
	// a CPU should be kept busy with for an hour.
	callSeconds = 1
	// hostBytes bounds the operands of a call in main memory, for the same reason.
	hostBytes = 320 << 20
)

// Select are the calls that Ops measures.
func (o OpsOptions) Select() []devicetest.Benchmark {
	return slices.DeleteFunc(devicetest.Benchmarks(o.Type), func(b devicetest.Benchmark) bool {
		return o.Filter != nil && !o.Filter.MatchString(b.Name())
	})
}

// Ops measures the operations of a device, one after the other, and hands each row to show. The checksums of two devices of
// one kind are equal.
func Ops(ctx context.Context, c *Ceilings, o OpsOptions, show func(Row) error) error {
	start := time.Now()
	for _, b := range o.Select() {
		if err := ctx.Err(); err != nil {
			return err
		}
		row := describe(b)
		row.LeftOut = c.tooLarge(b)
		if o.Seconds > 0 && time.Since(start).Seconds() > o.Seconds {
			row.LeftOut = fmt.Sprintf("the %.0f s for all are over", o.Seconds)
		}
		if row.LeftOut == "" {
			var err error
			if row, err = c.measure(ctx, b); err != nil {
				return fmt.Errorf("%s: %w", b.Name(), err)
			}
		}
		if err := show(row); err != nil {
			return err
		}
	}
	return nil
}

func describe(b devicetest.Benchmark) Row {
	c := b.Case()
	return Row{Op: b.Op.Name, Shape: b.Shape.String(), Type: b.Type.String(), FLOP: c.FLOPs, Bytes: c.Bytes(b.Type)}
}

// tooLarge is why the device is not asked for a call, or "".
func (c *Ceilings) tooLarge(b devicetest.Benchmark) string {
	call := b.Case()
	if call.FLOPs > 0 {
		// An error is the device's, and the next call's as well.
		if gemm, err := c.Gemm(b.Type); err == nil && call.FLOPs > gemm*callSeconds {
			return fmt.Sprintf("%.1f GFLOP, and products run at %.1f GFLOP/s here", call.FLOPs/1e9, gemm/1e9)
		}
	}
	m, held := c.d.Memory(), call.Held(b.Type)
	if library, offered := b.LibraryCase(c.d); offered {
		held = max(held, library.Held(b.Type))
	}
	switch free := m.Total - m.Used; {
	case m.Host && held > hostBytes:
		return fmt.Sprintf("%.1f GiB of operands, and nothing that takes over %.1f GiB is timed on a CPU", float64(held)/(1<<30), float64(hostBytes)/(1<<30))
	case !m.Host && m.Total > 0 && held > free-free/10: // a tenth for what the device needs beside them
		return fmt.Sprintf("%.1f GiB of operands, and %.1f GiB of memory are free", float64(held)/(1<<30), float64(free)/(1<<30))
	}
	return ""
}

// measure fills a row.
func (c *Ceilings) measure(ctx context.Context, b devicetest.Benchmark) (Row, error) {
	t, err := c.start(b)
	if err != nil {
		return Row{}, err
	}
	defer t.free()
	begin := time.Now()
	for i := 0; i < roundsAtLeast || time.Since(begin).Seconds() < rowSeconds; i++ {
		if err := errorOf(ctx.Err(), t.round()); err != nil {
			return Row{}, err
		}
	}
	return t.finish()
}

func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// timing is a row that is being measured.
type timing struct {
	ceilings *Ceilings
	bench    devicetest.Benchmark
	loaded   *devicetest.Loaded
	perRound int
	row      Row
}

// start loads the operands, warms up, and finds how many calls make a round.
func (c *Ceilings) start(b devicetest.Benchmark) (*timing, error) {
	t := &timing{ceilings: c, bench: b, row: describe(b)}
	var err error
	if t.loaded, err = devicetest.Load(c.d, b.Case(), b.Type); err != nil {
		return nil, err
	}
	t.row.Checksum = t.loaded.Checksum()
	once, err := t.loaded.Time(1)
	t.perRound = callsFor(t.loaded, once)
	if err == nil && t.perRound > 1 {
		_, err = t.loaded.Time(t.perRound)
	}
	return t, err
}

func (t *timing) free() { t.loaded.Free() }

// round measures once more.
func (t *timing) round() error {
	seconds, err := perCall(t.loaded, t.perRound)
	t.row.rounds, t.row.calls = append(t.row.rounds, seconds), append(t.row.calls, t.perRound)
	t.row.Calls += t.perRound
	return err
}

// finish is the row: the rounds beside what bounds them, and beside the library.
func (t *timing) finish() (Row, error) {
	r := &t.row
	least := slices.Min(r.rounds)
	r.MinMs, r.MedianMs = 1e3*least, 1e3*median(r.rounds)
	copied, err := t.ceilings.Copy()
	if err != nil {
		return *r, err
	}
	r.Ceiling = "copy"
	bound := r.Bytes / copied
	if r.FLOP > 0 {
		gemm, err := t.ceilings.Gemm(t.bench.Type)
		if err != nil {
			return *r, err
		}
		if r.FLOP/gemm >= bound {
			r.Ceiling, bound = "gemm", r.FLOP/gemm
		}
	}
	r.OfCeiling = bound / least
	library, offered := t.bench.LibraryCase(t.ceilings.d)
	if !offered {
		return *r, nil
	}
	t.free()
	if t.loaded, err = devicetest.Load(t.ceilings.d, library, t.bench.Type); err != nil {
		return *r, err
	}
	fastest := math.Inf(1)
	for i := range len(r.rounds) + 1 { // the first one warms up
		seconds, err := perCall(t.loaded, min(t.perRound, t.loaded.Copies()))
		if err != nil {
			return *r, err
		}
		if i > 0 {
			fastest = min(fastest, seconds)
		}
	}
	r.LibraryMs, r.OfLibrary = 1e3*fastest, least/fastest
	return *r, nil
}

func median(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}
