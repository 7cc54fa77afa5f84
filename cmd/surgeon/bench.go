package main

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"surgeon/bench"
	"surgeon/engine/device"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

type benchCommand struct {
	Ops  benchOpsCommand  `cmd:"" help:"Time every operation of the device, at layers of real models."`
	Shot benchShotCommand `cmd:"" help:"Time one shot at the shapes of a real model, with random weights."`
}

// benchForm is how figures are printed.
type benchForm struct {
	JSON bool `help:"Print the figures, or the error, as JSON on standard output." xor:"form" group:"general"`
	Go   bool `help:"Print lines of the Go benchmark format, for benchstat." xor:"form" group:"general"`
}

type benchOpsCommand struct {
	Filter    string  `help:"Only calls whose name, operation/shape/type, matches." placeholder:"REGEX" group:"general"`
	Precision string  `help:"Arithmetic of the model: float32, float64, bfloat16; auto = bfloat16 on a GPU, float32 on the CPU. Costs and updates are in float64 whatever it is." enum:"auto,float32,float64,bfloat16" default:"auto" placeholder:"TYPE" group:"device"`
	Seconds   float64 `help:"Begin no further call after so many seconds; 0 = never." default:"600" placeholder:"SECONDS" group:"general"`

	benchForm `embed:""`
	common    `embed:""`
}

// Help stands below the summary in --help.
func (*benchOpsCommand) Help() string {
	return `Each call is made again and again on random operands, in turn on copies of them that together exceed the cache. Beside its rate stands the fraction of what bounds it, measured in the same run: a large product (gemm) or a large copy, whichever takes longer. "of library" is the time of Gram matrices as a multiple of that of the library's whole products. What would keep the device busy for more than a second a call is left out, by name.`
}

func (c *benchOpsCommand) Run(s *session) error {
	filter, err := regexp.Compile(c.Filter)
	if err != nil {
		return refuse("--filter: %w", err)
	}
	dev, err := s.open(c.common, 0)
	if err != nil {
		return err
	}
	o := bench.OpsOptions{Type: typeNamed(c.Precision, dev), Filter: filter, Seconds: c.Seconds}
	selected := o.Select()
	if len(selected) == 0 {
		return refuse("--filter %q matches no call; names are like %s", c.Filter, (bench.OpsOptions{Type: o.Type}).Select()[0].Name())
	}
	gpu := s.telemetry()
	ceilings := bench.NewCeilings(dev)
	header, err := s.ceilings(ceilings, dev, gpu, o)
	if err != nil {
		return err
	}
	var rows []bench.Row
	show := func(r bench.Row) error { rows = append(rows, r); s.watcher.Step(len(rows)); return nil }
	width := 0
	for _, b := range selected {
		width = max(width, utf8.RuneCountInString(b.Name()))
	}
	switch {
	case c.JSON:
		s.watcher.Stage("operations", len(selected))
	case c.Go:
		if err := s.print(header.GoText()); err != nil {
			return err
		}
		show = func(r bench.Row) error { return s.print(r.GoText()) }
	default:
		if err := s.print(header.Text() + "\n" + bench.OpsTitle(width)); err != nil {
			return err
		}
		show = func(r bench.Row) error { rows = append(rows, r); return s.print(r.Text(width)) }
	}
	if err := bench.Ops(s.ctx, ceilings, o, show); err != nil {
		return err
	}
	if !c.JSON {
		return s.print(bench.LeftOutText(rows) + gpuText(gpu, c.Go)) // rows are for people only: --go has a line for each that was left out
	}
	return s.printJSON(struct {
		bench.Header
		Rows []bench.Row `json:"operations"`
		GPU  *report.GPU `json:"gpu,omitempty"`
	}{header, rows, now(gpu)})
}

// ceilings measures what all figures are compared with.
func (s *session) ceilings(c *bench.Ceilings, dev device.Device, gpu func() *report.GPU, o bench.OpsOptions) (bench.Header, error) {
	s.watcher.Stage("ceilings", 0)
	h := bench.NewHeader(dev, now(gpu), report.ThisProgram(programVersion()), o.Type)
	for _, b := range o.Select() {
		if b.Case().FLOPs == 0 {
			continue
		}
		if _, err := c.Gemm(b.Type); err != nil {
			return h, err
		}
	}
	if _, err := c.Copy(); err != nil {
		return h, err
	}
	h.Ceilings(c)
	return h, nil
}

type benchShotCommand struct {
	Shape     string `help:"Model whose shapes are taken: smollm2-135m, opt-125m, opt-6.7b, llama-2-7b, llama-3-8b." enum:"smollm2-135m,opt-125m,opt-6.7b,llama-2-7b,llama-3-8b" required:"" placeholder:"NAME" group:"general"`
	Layers    int    `help:"Blocks of it; 0 = all." default:"0" placeholder:"BLOCKS" group:"general"`
	Sequences int    `help:"Sequences that the curvature is measured with." default:"4" placeholder:"SEQUENCES" group:"general"`
	Length    int    `help:"Tokens in a sequence; 0 = 4096, or what the model allows." default:"0" placeholder:"TOKENS" group:"general"`

	Structure prune.Structure `help:"What goes: rowcol, unit (6 % of the weights by rows and columns, or by heads and neurons), element (half of them, singly), or N:M, as 2:4." default:"rowcol" placeholder:"STRUCTURE" group:"general"`

	Batch     int    `help:"Sequences that go through the model at one time; 0 = 1 on the CPU, as many as fit on a GPU." default:"0" placeholder:"SEQUENCES" group:"device"`
	Precision string `help:"Arithmetic of the model: float32, float64, bfloat16; auto = bfloat16 on a GPU, float32 on the CPU." enum:"auto,float32,float64,bfloat16" default:"auto" placeholder:"TYPE" group:"device"`

	benchForm `embed:""`
	common    `embed:""`
}

// Help stands below the summary in --help.
func (*benchShotCommand) Help() string {
	return `Makes a model of exactly these shapes, with random weights, on the device, and runs the stages of one shot on it, by the code that prune runs: curvature from random tokens, costs of all layers, threshold, updates of all layers. Rates stand beside those of large products in the same run. Nothing is extrapolated: what a shot of 128 sequences takes is told by --sequences 128.`
}

func (c *benchShotCommand) Run(s *session) error {
	dev, err := s.open(c.common, 0)
	if err != nil {
		return err
	}
	shape, _ := bench.ShapeNamed(c.Shape)
	o := bench.ShotOptions{Shape: shape, Layers: c.Layers, Sequences: c.Sequences, Length: c.Length, Batch: c.Batch, Precision: typeNamed(c.Precision, dev), Structure: c.Structure}
	gpu := s.telemetry()
	ceilings := bench.NewCeilings(dev)
	r, err := bench.Shot(s.ctx, ceilings, o, s.watcher)
	if err != nil {
		return err
	}
	header := bench.NewHeader(dev, now(gpu), report.ThisProgram(programVersion()), o.Precision)
	header.Ceilings(ceilings)
	switch {
	case c.JSON:
		return s.printJSON(struct {
			bench.Header
			*bench.ShotReport
			GPU *report.GPU `json:"gpu,omitempty"`
		}{header, r, now(gpu)})
	case c.Go:
		return s.print(header.GoText() + r.GoText() + gpuText(gpu, true))
	}
	return s.print(header.Text() + "\n" + r.Text() + gpuText(gpu, false))
}

// now is what is known of the open GPU so far, nil where there is none.
func now(gpu func() *report.GPU) *report.GPU {
	if gpu == nil {
		return nil
	}
	return gpu()
}

// gpuText is what the GPU did meanwhile, in a line: a clock that was held down makes other figures.
func gpuText(gpu func() *report.GPU, comment bool) string {
	g := now(gpu)
	switch {
	case g == nil:
		return ""
	case comment:
		return "# GPU: " + g.During() + "\n"
	}
	return "\nGPU: " + g.During() + ".\n"
}

// typeNamed is the type of that name, or what is usual on the device.
func typeNamed(name string, dev device.Device) device.Type {
	switch name {
	case "float64":
		return device.F64
	case "float32":
		return device.F32
	case "bfloat16":
		return device.BF16
	}
	if dev.Memory().Host {
		return device.F32
	}
	return device.BF16
}

func (s *session) printJSON(v any) error {
	var b strings.Builder
	if err := writeJSON(&b, v); err != nil {
		return fmt.Errorf("the figures: %w", err)
	}
	return s.print(b.String())
}
