package engine

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What would be caught: a package that reaches over the seam, such as a method that imports hardware, or a format that
// knows about devices; a package other than cmd/surgeon and bench that knows both the engine and a GPU; hardware in the
// program that must do without. Tests may import what they like, but the program.
func TestImportRules(t *testing.T) {
	// allowed lists, for each package of this module, the packages of this module that it may import.
	allowed := map[string][]string{
		"engine/device":                     nil,
		"engine/device/cpu":                 {"engine/device", "engine/internal/parallel"},
		"engine/device/devicetest":          {"engine/device", "engine/device/cpu"},
		"engine/checkpoint/internal/mapped": nil,
		"engine/checkpoint/safetensors":     {"engine/checkpoint/internal/mapped"},
		"engine/checkpoint/gguf":            {"engine/checkpoint/internal/mapped"},
		"engine/checkpoint/gguf/gguftest":   {"engine/checkpoint/gguf"},
		"engine/internal/golden":            {"engine/checkpoint/safetensors"},
		"engine/internal/parallel":          nil,
		"engine/internal/stop":              nil,
		"engine/enginetest": {"engine", "engine/internal/golden", "engine/checkpoint", "engine/checkpoint/safetensors", "engine/device", "engine/device/cpu",
			"engine/model", "engine/curvature", "engine/prune", "engine/report"},
		"engine/checkpoint": {"engine/internal/parallel", "engine/internal/stop", "engine/checkpoint/internal/mapped", "engine/checkpoint/safetensors", "engine/checkpoint/gguf"},
		"engine/text":       {"engine/checkpoint/gguf", "engine/internal/stop"},
		"engine/journal":    {"engine/checkpoint/safetensors", "engine/internal/stop"},
		"engine/report":     nil,
		"engine/compare":    {"engine/checkpoint", "engine/checkpoint/safetensors", "engine/internal/parallel", "engine/report"},
		"engine/tasks":      {"engine/text", "engine/report"},
		"engine/model":      {"engine/device", "engine/checkpoint"},
		"engine/curvature":  {"engine/device", "engine/model"},
		"engine/lora":       {"engine/device", "engine/model"},
		"engine/prune":      {"engine/device", "engine/checkpoint", "engine/internal/parallel"},
		"engine": {"engine/device", "engine/checkpoint", "engine/checkpoint/gguf", "engine/checkpoint/safetensors", "engine/text",
			"engine/model", "engine/curvature", "engine/lora", "engine/prune", "engine/journal", "engine/report", "engine/tasks", "engine/internal/parallel", "engine/internal/stop"},
		"cgo":              {"engine/device", "engine/device/cpu"},
		"cgo/telemetry":    {"engine/report"},
		"cmd/surgeon/demo": nil,
	}
	// joining packages put the engine and devices together.
	joining := []string{"cmd/surgeon", "bench"}
	// suites are for tests and benchmarks, not for the program.
	suites := []string{"engine/device/devicetest", "engine/enginetest"}
	// hardware has one package each that may import it.
	hardware := map[string]string{"C": "cgo", "gorgonia.org/cu": "cgo", "github.com/NVIDIA/go-nvml": "cgo/telemetry"}

	for build, env := range map[string]string{"": "CGO_ENABLED=0", "cuda": "CGO_ENABLED=1"} {
		seen := map[string]bool{}
		for _, fields := range goList(t, env, "-tags", build, "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "surgeon/...") {
			pkg := strings.TrimPrefix(fields[0], "surgeon/")
			seen[pkg] = true
			rules, known := allowed[pkg]
			if !known && !slices.Contains(joining, pkg) {
				t.Errorf("%s has no import rule; add it here after reading engine/doc.go", pkg)
			}
			for _, i := range fields[1:] {
				for h, only := range hardware {
					if (i == h || strings.HasPrefix(i, h+"/")) && pkg != only {
						t.Errorf("%s imports %s; only %s does", pkg, i, only)
					}
				}
				inside, ok := strings.CutPrefix(i, "surgeon/")
				if !ok {
					continue
				}
				if known && !slices.Contains(rules, inside) {
					t.Errorf("%s imports %s, which its rule does not allow", pkg, inside)
				}
				if pkg == "cmd/surgeon" && slices.Contains(suites, inside) {
					t.Errorf("%s imports %s, which is for tests", pkg, inside)
				}
			}
		}
		for pkg := range allowed {
			if !seen[pkg] {
				t.Errorf("there is a rule for %s, and no such package with tags %q", pkg, build)
			}
		}
		for _, fields := range goList(t, env, "-tags", build, "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}{{range .TestImports}} {{.}}{{end}}{{range .XTestImports}} {{.}}{{end}}`, "surgeon/...") {
			for _, i := range fields[1:] {
				if strings.HasPrefix(i, "surgeon/cmd/") && !strings.HasPrefix(fields[0], "surgeon/cmd/") {
					t.Errorf("%s imports %s; nothing imports cmd", fields[0], i)
				}
			}
		}
	}
	for _, fields := range goList(t, "CGO_ENABLED=0", "-deps", "surgeon/cmd/surgeon") {
		for h := range hardware {
			if fields[0] == h || strings.HasPrefix(fields[0], h+"/") {
				t.Errorf("the program without CUDA is built with %s", fields[0])
			}
		}
	}
}

// goList is the output of go list, as lines of words. It needs no compiler and no toolkit, whatever the tags.
func goList(t *testing.T, env string, args ...string) [][]string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Env = append(os.Environ(), env)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var lines [][]string
	for line := range strings.Lines(string(out)) {
		lines = append(lines, strings.Fields(line))
	}
	return lines
}
