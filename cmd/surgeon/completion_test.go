package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"surgeon/engine/report"
)

func testParser(t *testing.T) *kong.Kong {
	t.Helper()
	parser, err := newParser(&grammar{}, &session{stdout: io.Discard, stderr: io.Discard}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	return parser
}

// What would be caught: a help text with a quote, a bracket or a colon that breaks a script.
func TestCompletionIsValid(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		t.Run(shell, func(t *testing.T) {
			code, script, stderr := invoke("completion", shell)
			if code != 0 {
				t.Fatal(stderr)
			}
			for _, want := range []string{"prune", "step-limit", "cost-per-weight"} {
				if !strings.Contains(script, want) {
					t.Errorf("no %q in the script", want)
				}
			}
			if _, err := exec.LookPath(shell); err != nil {
				t.Skipf("the syntax is not checked: %s is not installed", shell)
			}
			path := t.TempDir() + "/script"
			writeFile(t, path, script)
			if out, err := exec.Command(shell, "-n", path).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// What would be caught: bash offering nothing, or the wrong thing.
func TestCompletionInBash(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("bash is not installed")
	}
	_, script, _ := invoke("completion", "bash")
	for _, c := range []struct {
		words string // the last one is being completed
		want  string
	}{
		{"surgeon pr", "prune"},
		{"surgeon prune --rank-by ''", "cost cost-per-weight"},
		{"surgeon prune --rank-by = cost-", "cost-per-weight"},
		{"surgeon prune --rank-by =", "cost cost-per-weight"},
		{"surgeon prune --dam", "--damp-g --damp-a --damping"},
		{"surgeon eval --dam", ""},
		{"surgeon completion f", "fish"},
		{"surgeon prune --text ''", ""},
		{"surgeon compare --m", "--masks"},
	} {
		command := fmt.Sprintf("%s\ncompopt() { :; }\nCOMP_WORDS=(%s)\nCOMP_CWORD=$((${#COMP_WORDS[@]}-1))\n_surgeon\necho \"${COMPREPLY[*]}\"", script, c.words)
		out, err := exec.Command("bash", "-c", command).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", c.words, err, out)
		}
		if got := strings.TrimSpace(string(out)); got != c.want {
			t.Errorf("%s: %q is offered, want %q", c.words, got, c.want)
		}
	}
}

// What would be caught: a flag without an explanation, or without a group, which would stand above all others.
func TestEveryFlagIsExplained(t *testing.T) {
	for _, node := range testParser(t).Model.Children {
		for _, f := range node.Flags {
			if !strings.HasSuffix(f.Help, ".") {
				t.Errorf("%s --%s: the help is %q, which is no sentence", node.Name, f.Name, f.Help)
			}
			if f.Group == nil && node.Name != "info" {
				t.Errorf("%s --%s is in no group", node.Name, f.Name)
			}
		}
	}
}

// What would be caught: help that lost its groups, units or defaults.
func TestHelp(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"Usage: surgeon <command>", "prune ", "eval ", "plan ", "demo ", "info ", "completion "}},
		{[]string{"--help"}, []string{"Usage: surgeon <command>"}},
		{[]string{"prune", "--help"}, []string{"\nText:\n", "\nPruning:\n", "\nOutput:\n", "\nDevice:\n", "\nGeneral:\n", "--text=FILE", "--target=SHARE",
			"-o, --output=DIR", "--length=TOKENS", "(default 0.2)", "--samples=128", "surgeon prune SmolLM2-135M --text wiki.txt"}},
		{[]string{"eval", "--help"}, []string{"--length=TOKENS", "<model>"}},
		{[]string{"--version"}, []string{"surgeon ", "go1."}},
	} {
		code, stdout, stderr := invoke(c.args...)
		if code != 0 || stderr != "" {
			t.Errorf("%v: exit code %d, standard error %q", c.args, code, stderr)
		}
		for _, want := range c.want {
			if !strings.Contains(stdout, want) {
				t.Errorf("%v: no %q in\n%s", c.args, want, stdout)
			}
		}
		if strings.Contains(stdout, "cpuprofile") {
			t.Errorf("%v shows a hidden flag", c.args)
		}
	}
}

// What would be caught: a fish script that is valid and completes nothing.
func TestCompletionInFish(t *testing.T) {
	if _, err := exec.LookPath("fish"); err != nil {
		t.Skip("fish is not installed")
	}
	_, script, _ := invoke("completion", "fish")
	for _, c := range []struct{ line, want string }{
		{"surgeon pr", "prune"},
		{"surgeon prune --dam", "--damp-a --damp-g"},
		{"surgeon eval --dam", ""},
		{"surgeon prune --rank-by ", "cost cost-per-weight"},
		{"surgeon completion z", "zsh"},
	} {
		cmd := exec.Command("fish", "--no-config", "-c", script+"\ncomplete -C '"+c.line+"'")
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", c.line, err, out)
		}
		var words []string
		for line := range strings.Lines(string(out)) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			words = append(words, word)
		}
		if got := strings.Join(words, " "); got != c.want {
			t.Errorf("%s: %q is offered, want %q", c.line, got, c.want)
		}
	}
}

// What would be caught: a command to go on with that a shell reads as other words, and completion texts that end early.
func TestQuote(t *testing.T) {
	words := []string{"plain", "", "a b", "it's", `back\slash`, "$HOME", "*", "'", `\'`, "new\nline", "ä"}
	for shell, f := range map[string]func(string) string{"bash": report.ShellQuote, "zsh": report.ShellQuote, "fish": fishQuote} {
		if _, err := exec.LookPath(shell); err != nil {
			t.Logf("not tried: %s is not installed", shell)
			continue
		}
		for _, w := range words {
			out, err := exec.Command(shell, "-c", "printf %s "+f(w)).CombinedOutput()
			if err != nil || string(out) != w {
				t.Errorf("%s reads %q as %q (%v)", shell, w, out, err)
			}
		}
	}
	if got, want := report.ShellWords(words[:4]), "plain '' 'a b' 'it'\\''s'"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
