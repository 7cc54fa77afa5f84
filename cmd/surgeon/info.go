package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

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
	Formats []string       `json:"formats"`
	Models  []string       `json:"architectures"`
}

type deviceFacts struct {
	Name        string `json:"name"`
	MemoryBytes int64  `json:"memory_bytes"`
}

func (c *infoCommand) Run(s *session) error {
	dev := cpu.Open()
	defer dev.Close()
	f := facts{
		Program: report.ThisProgram(programVersion()), Machine: report.ThisMachine(dev.Name()),
		Devices: []deviceFacts{{dev.Name(), dev.Memory().Total}},
		Formats: formats, Models: checkpoint.Families(),
	}
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
	line("memory", "%s", gibibytes(f.Machine.MemoryBytes))
	for _, d := range f.Devices {
		line("device", "%s", d.Name)
	}
	line("", "no CUDA: this build runs on the CPU")
	for i, format := range f.Formats {
		line([]string{"reads", ""}[min(i, 1)], "%s", format)
	}
	line("architectures", "%s", strings.Join(f.Models, ", "))
	return s.print(b.String())
}

// formats are what the program reads, for people.
var formats = []string{
	"Hugging Face directories: config.json, tokenizer.json, safetensors (one file or shards; F32, F16, BF16)",
	"GGUF files: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0",
}

func known(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func gibibytes(n int64) string {
	if n <= 0 {
		return "unknown"
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
