package engine

import (
	"bufio"
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What would be caught: a package that reaches over the seam, such as a method that imports hardware, or a format that
// knows about devices.
func TestImportRules(t *testing.T) {
	// allowed lists, for each package of this module, the packages of this module that it may import.
	allowed := map[string][]string{
		"engine/device":                     nil,
		"engine/device/cpu":                 {"engine/device"},
		"engine/device/devicetest":          {"engine/device", "engine/device/cpu"},
		"engine/checkpoint/internal/mapped": nil,
		"engine/checkpoint/safetensors":     {"engine/checkpoint/internal/mapped"},
		"engine/checkpoint/gguf":            {"engine/checkpoint/internal/mapped"},
		"engine/checkpoint/gguf/gguftest":   {"engine/checkpoint/gguf"},
		"engine/internal/golden":            {"engine/checkpoint/safetensors"},
		"engine/enginetest": {"engine", "engine/internal/golden", "engine/checkpoint", "engine/checkpoint/safetensors", "engine/device", "engine/device/cpu",
			"engine/model", "engine/curvature", "engine/prune", "engine/report"},
		"engine/checkpoint": {"engine/checkpoint/internal/mapped", "engine/checkpoint/safetensors", "engine/checkpoint/gguf"},
		"engine/text":       {"engine/checkpoint/gguf"},
		"engine/journal":    {"engine/checkpoint/safetensors"},
		"engine/report":     nil,
		"engine/model":      {"engine/device", "engine/checkpoint"},
		"engine/curvature":  {"engine/device", "engine/model"},
		"engine/prune":      {"engine/device", "engine/checkpoint"},
		"engine": {"engine/device", "engine/checkpoint", "engine/checkpoint/gguf", "engine/checkpoint/safetensors", "engine/text",
			"engine/model", "engine/curvature", "engine/prune", "engine/journal", "engine/report"},
	}
	// hardware is what nothing below engine may import, directly.
	hardware := []string{"C", "gorgonia.org/cu", "github.com/NVIDIA/go-nvml"}

	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "surgeon/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		pkg := strings.TrimPrefix(fields[0], "surgeon/")
		if pkg != "engine" && !strings.HasPrefix(pkg, "engine/") {
			for _, i := range fields[1:] {
				if strings.HasPrefix(i, "surgeon/cmd/surgeon") && !strings.HasPrefix(pkg, "cmd/") {
					t.Errorf("%s imports %s; nothing imports cmd", pkg, i)
				}
			}
			continue
		}
		seen++
		rules, known := allowed[pkg]
		if !known {
			t.Errorf("%s has no import rule; add it here after reading engine/doc.go", pkg)
		}
		for _, i := range fields[1:] {
			for _, h := range hardware {
				if i == h || strings.HasPrefix(i, h+"/") {
					t.Errorf("%s imports %s; the engine knows no hardware", pkg, i)
				}
			}
			if inside, ok := strings.CutPrefix(i, "surgeon/"); ok && !slices.Contains(rules, inside) {
				t.Errorf("%s imports %s, which its rule does not allow", pkg, inside)
			}
		}
	}
	if seen < len(allowed) {
		t.Errorf("go list shows %d packages of the engine, the rules name %d", seen, len(allowed))
	}
}
