package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"surgeon/cgo"
	"surgeon/cgo/telemetry"
	"surgeon/engine/checkpoint"
	"surgeon/engine/device/cpu"
	"surgeon/engine/report"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version string

// programVersion is the version of the program: the release, or what the build recorded.
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func versionText() string {
	return fmt.Sprintf("%s (%s, %s/%s)", programVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

type infoCommand struct {
	JSON bool `help:"Print JSON."`
}

// facts is the JSON of info.
type facts struct {
	Program report.Program `json:"program"`
	Machine report.Machine `json:"machine"`
	Devices []deviceFacts  `json:"devices"`
	NoCUDA  string         `json:"no_cuda,omitempty"` // why no GPU is among the devices
	NoNVML  string         `json:"no_nvml,omitempty"` // why it is not told what the GPUs do
	Formats []string       `json:"formats"`
	Models  []string       `json:"architectures"`
}

type deviceFacts struct {
	ID          string      `json:"id"` // as --device takes it
	Name        string      `json:"name"`
	MemoryBytes int64       `json:"memory_bytes"`
	Capability  string      `json:"compute_capability,omitempty"`
	Problem     string      `json:"problem,omitempty"` // why it cannot be used
	Now         *report.GPU `json:"now,omitempty"`     // what its driver tells
}

// gather asks everything.
func (s *session) gather() facts {
	dev := cpu.Open()
	defer dev.Close()
	f := facts{
		Program: report.ThisProgram(programVersion()), Machine: report.ThisMachine(dev.Name()),
		Devices: []deviceFacts{{ID: "cpu", Name: dev.Name(), MemoryBytes: dev.Memory().Total}},
		Formats: formats, Models: checkpoint.Families(),
	}
	gpus, err := cuda.Devices()
	if err != nil {
		f.NoCUDA = s.noGPU(err)
	}
	for _, g := range gpus {
		id := fmt.Sprintf("cuda:%d", g.Ordinal)
		f.Devices = append(f.Devices, deviceFacts{ID: id, Name: id + " " + g.Name, MemoryBytes: g.MemoryBytes,
			Capability: fmt.Sprintf("%d.%d", g.Capability/10, g.Capability%10), Problem: g.Problem})
	}
	if len(gpus) > 0 {
		if err := f.askDriver(gpus); err != nil {
			f.NoNVML = err.Error()
		}
	}
	return f
}

// askDriver adds what the GPUs do at this moment.
func (f *facts) askDriver(gpus []cuda.Info) error {
	nvml, err := telemetry.Open()
	if err != nil {
		return err
	}
	defer nvml.Close()
	for i, g := range gpus {
		var failed error
		d := &f.Devices[len(f.Devices)-len(gpus)+i]
		if d.Now, failed = nvml.Now(g.PCI); failed != nil {
			err = failed
		}
	}
	return err
}

func (c *infoCommand) Run(s *session) error {
	f := s.gather()
	var b strings.Builder
	if c.JSON {
		if err := writeJSON(&b, f); err != nil {
			return err
		}
		return s.print(b.String())
	}
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-15s%s\n", name, fmt.Sprintf(format, args...))
	}
	line("surgeon", "%s", f.Program.Version)
	if f.Program.Commit != "" {
		changed := ""
		if f.Program.Modified {
			changed = ", with changes"
		}
		line("commit", "%s%s", f.Program.Commit, changed)
	}
	tags := ""
	if f.Program.Tags != "" {
		tags = ", built with -tags " + f.Program.Tags
	}
	line("Go", "%s, %s%s", f.Program.Go, f.Machine.OS, tags)
	line("processor", "%s, %d cores", known(f.Machine.CPU), f.Machine.Cores)
	line("memory", "%s", knownBytes(f.Machine.MemoryBytes))
	for _, d := range f.Devices {
		d.print(line)
	}
	if f.NoCUDA != "" {
		line("", "no CUDA: %s", f.NoCUDA)
	}
	if f.NoNVML != "" {
		line("", "no more is known about the GPU: %s", f.NoNVML)
	}
	for i, format := range f.Formats {
		line([]string{"reads", ""}[min(i, 1)], "%s", format)
	}
	line("architectures", "%s", strings.Join(f.Models, ", "))
	return s.print(b.String())
}

func (d deviceFacts) print(line func(name, format string, args ...any)) {
	if d.Capability == "" {
		line("device", "%s", d.Name)
		return
	}
	line("device", "%s, %s, compute capability %s", d.Name, knownBytes(d.MemoryBytes), d.Capability)
	if d.Problem != "" {
		line("", "cannot be used: %s", d.Problem)
	}
	if d.Now != nil {
		line("", "driver %s, CUDA %s; %s", d.Now.Driver, d.Now.CUDA, d.Now.Now())
	}
}

// formats are what the program reads, for people.
var formats = []string{
	"Hugging Face directories: config.json, tokenizer.json, safetensors (one file or shards; F32, F16, BF16)",
	"GGUF files: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0",
	"texts: .txt, .jsonl (field text), .parquet (column text), also .gz and .zst, up to 4 GiB",
}

func known(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func knownBytes(n int64) string {
	if n <= 0 {
		return "unknown"
	}
	return report.Gibibytes(n)
}
