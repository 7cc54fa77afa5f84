package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// What would be caught: a signal that kills the run instead of ending it, a work directory that the run cannot go on from,
// a last line that is not the command to go on with, a resumed run that ends in other bytes.
func TestStopAndGoOn(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signalName(sig), func(t *testing.T) { stopAndGoOn(t, sig) })
	}
}

func stopAndGoOn(t *testing.T, sig syscall.Signal) {
	tiny(t)
	args := pruneArgs("--shots", "6", "--samples", "60")
	if code, _, stderr := invoke(append(args, "-o", "whole")...); code != 0 {
		t.Fatal(stderr)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "SURGEON_TEST_MAIN=1")
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		stderr.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), `msg=begin stage="shot 3 of 6: curvature"`) {
			cmd.Process.Signal(sig)
		}
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitStopped {
		t.Fatalf("exit code %d, want %d:\n%s", code, exitStopped, &stderr)
	}
	for _, want := range []string{"surgeon: stopped by " + signalName(sig) + "; the same command goes on after shot 2:\n", "\n    " + self + " prune model --text text.txt"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("no %q in\n%s", want, &stderr)
		}
	}
	if _, err := os.Stat("out"); err == nil {
		t.Errorf("a stopped run has written a model")
	}

	words := strings.Fields(lastLine(stderr.String()))
	if sig == syscall.SIGTERM { // the bits do not depend on the threads, so a run may go on with fewer or more
		words = append(words, "--threads", strconv.Itoa(runtime.GOMAXPROCS(0)+1))
	}
	code, _, again := invoke(words[1:]...)
	if code != 0 || !strings.Contains(again, "going on after shot 2 of 6") {
		t.Fatalf("exit code %d:\n%s\nafter\n%s", code, again, &stderr)
	}
	for _, name := range []string{"model.safetensors", "config.json", "tokenizer.json"} {
		if readFile(t, "out/"+name) != readFile(t, "whole/"+name) {
			t.Errorf("%s differs from that of a run that was not stopped", name)
		}
	}
	if _, err := os.Stat("out.work"); err == nil {
		t.Errorf("the work directory of a complete run is still there")
	}
}
