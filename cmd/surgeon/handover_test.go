package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"surgeon/cgo"
)

// beside makes a directory with this program, as surgeon, and another one beside it as surgeon-cuda: a shell script, or with
// the path of a program that program. It returns the path of surgeon. A machine with a GPU is played by the directory that
// SURGEON_TEST_ROOT names.
func beside(t *testing.T, script, program string) string {
	t.Helper()
	if cuda.Built {
		t.Skip("this build has CUDA and hands over to nobody")
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copyProgram(t, self, filepath.Join(dir, "surgeon"))
	if script != "" {
		if err := os.WriteFile(filepath.Join(dir, cudaProgram), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if program != "" {
		copyProgram(t, program, filepath.Join(dir, cudaProgram))
	}
	return filepath.Join(dir, "surgeon")
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	if os.Link(from, to) == nil {
		return
	}
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// execute runs a program with additional environment.
func execute(t *testing.T, program string, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, words bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Env = append(append(os.Environ(), "SURGEON_TEST_MAIN=1"), env...)
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), words.String()
}

// machine is a directory that stands for the root of a machine with these files, as the environment of execute.
func machine(t *testing.T, files ...string) []string {
	t.Helper()
	root := t.TempDir()
	for _, f := range files {
		writeFile(t, filepath.Join(root, f), "")
	}
	return []string{"SURGEON_TEST_ROOT=" + root}
}

// working is a surgeon-cuda that tells how it was called, and ends with a code of its own.
const working = `#!/bin/sh
[ "$1" = --version ] && exit 0
echo "took over, $SURGEON_HANDED_OVER: $*"
exit 7
`

// What would be caught: a hand-over where no GPU is asked for or found, none where one is, other arguments or another exit
// code than those of the program that took over.
func TestHandOver(t *testing.T) {
	surgeon := beside(t, working, "")
	tiny(t)
	writeFile(t, "run.yaml", "device: cuda:1\n")
	link := filepath.Join(t.TempDir(), "linked")
	if err := os.Symlink(surgeon, link); err != nil {
		t.Fatal(err)
	}
	none, gpu := machine(t), machine(t, "dev/nvidia0", "dev/nvidiactl")
	eval := func(more ...string) []string {
		return append([]string{"eval", "model", "--text", "text.txt", "--length", "32"}, more...)
	}
	for _, c := range []struct {
		machine []string
		args    []string
		over    bool
	}{
		{none, eval("--device", "cuda"), true},
		{none, eval("--device=cuda:12"), true},
		{none, pruneArgs("--config", "run.yaml"), true},
		{gpu, pruneArgs("--config", "run.yaml", "--device", "cpu", "--dry-run"), false},
		{none, eval("--device", "cpu"), false},
		{gpu, eval("--device", "cpu"), false},
		{none, eval(), false},
		{gpu, eval(), true},
		{gpu, eval("--device", "auto", "--json"), true},
		{machine(t, "proc/driver/nvidia/gpus/0000:1b:00.0/information"), eval(), true},
		{machine(t, "usr/lib/wsl/lib/libcuda.so.1"), eval(), true},
		{machine(t, "proc/driver/nvidia/version", "dev/nvidiactl", "dev/nvidia-uvm", "dev/dxg"), eval(), false}, // a driver, and no GPU
		{none, []string{"info"}, false},
		{gpu, []string{"info"}, true},
		{gpu, []string{"--help"}, false},
		{gpu, []string{"--version"}, false},
		{gpu, []string{"eval", "--help"}, false},
		{gpu, []string{"completion", "bash"}, false},
	} {
		for _, program := range []string{surgeon, link} {
			code, stdout, stderr := execute(t, program, c.machine, c.args...)
			want := fmt.Sprintf("took over, 1: %s\n", strings.Join(c.args, " "))
			if c.over && (code != 7 || stdout != want) {
				t.Errorf("%v: exit code %d, %q, %q; want 7, %q", c.args, code, stdout, stderr, want)
			}
			if !c.over && (code != 0 || strings.Contains(stdout, "took over")) {
				t.Errorf("%v: exit code %d, %q, %q; want its own work", c.args, code, stdout, stderr)
			}
		}
	}
	if code, stdout, _ := execute(t, surgeon, gpu, "eval"); code != exitRequest || stdout != "" {
		t.Errorf("a wrong request: exit code %d, %q", code, stdout)
	}
}

// What would be caught: a surgeon-cuda that is missing or cannot start, and a user who only sees what the loader says, or a
// run that silently works on the CPU, or programs that hand over to each other for ever.
func TestNothingToHandOverTo(t *testing.T) {
	tiny(t)
	gpu := machine(t, "dev/nvidia0")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const library = "error while loading shared libraries: libcublas.so.13: cannot open shared object file: No such file or directory"
	for _, c := range []struct{ name, script, program, want string }{
		{"missing", "", "", "this build of surgeon has no CUDA, and surgeon-cuda, which has it, is not beside it in DIR; `make cuda` makes it (no GPU is needed for that)"},
		{"without its libraries", "#!/bin/sh\necho \"$0: " + library + "\" >&2\nexit 127\n", "",
			"DIR/surgeon-cuda cannot start: " + library + "; CUDA 13 has it, in /usr/local/cuda/lib64, or in a directory to be named in LD_LIBRARY_PATH"},
		{"silent", "#!/bin/sh\nexit 3\n", "", "DIR/surgeon-cuda cannot start: exit status 3"},
		{"no program", "hello", "", "DIR/surgeon-cuda cannot start: fork/exec DIR/surgeon-cuda: exec format error"},
		{"this very program", "", self, "this build of surgeon has no CUDA"},
	} {
		t.Run(c.name, func(t *testing.T) {
			surgeon := beside(t, c.script, c.program)
			dir, err := filepath.EvalSymlinks(filepath.Dir(surgeon))
			if err != nil {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(c.want, "DIR", dir)
			code, stdout, stderr := execute(t, surgeon, gpu, "eval", "model", "--text", "text.txt", "--length", "32", "--device", "cuda")
			if code != exitRequest || stdout != "" || !strings.HasPrefix(stderr, "surgeon: --device is cuda; "+want) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("asked for: exit code %d, %q, %q; want %q", code, stdout, stderr, want)
			}
			code, _, stderr = execute(t, surgeon, gpu, "eval", "model", "--text", "text.txt", "--length", "32")
			if code != 0 || !strings.Contains(stderr, "chosen because "+want) {
				t.Errorf("only there: exit code %d, %q; want %q", code, stderr, want)
			}
			code, stdout, stderr = execute(t, surgeon, gpu, "info")
			if code != 0 || !strings.Contains(stdout, "no CUDA: "+want) {
				t.Errorf("info: exit code %d, %q, %q; want %q", code, stdout, stderr, want)
			}
		})
	}
}

// What would be caught: failures of a GPU that pass for wrong requests because they came while a model was loaded.
func TestFailuresOfAGPU(t *testing.T) {
	s := &session{ctx: t.Context(), stdout: io.Discard, stderr: io.Discard}
	for _, c := range []struct {
		err  error
		code int
	}{
		{refuse("loading: %w", &cuda.OutOfMemory{Device: "cuda:0", Asked: 3 << 30, Used: 79 << 30, Limit: 80 << 30}), exitFailed},
		{fmt.Errorf("shot 3: %w", errors.Join(&cuda.Failure{Device: "cuda:0", Op: "Gram", Code: 719, Text: "unspecified launch failure"})), exitFailed},
		{refuse("--device is cuda:7; %w", &cuda.Unavailable{Reason: "there is none"}), exitRequest},
	} {
		if code, sentence := s.judge(c.err); code != c.code || strings.Contains(sentence, "\n") {
			t.Errorf("%v: exit code %d, want %d", c.err, code, c.code)
		}
	}
}
