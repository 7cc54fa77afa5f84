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
	"time"

	"golang.org/x/sys/unix"
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
	self, stderr := stoppedBy(t, `msg=begin stage="shot 3 of 6: curvature"`, []syscall.Signal{sig}, args...)
	for _, want := range []string{"surgeon: stopped by " + signalName(sig) + "; the same command goes on after shot 2:\n", "\n    " + self + " prune model --text text.txt"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in\n%s", want, stderr)
		}
	}
	if _, err := os.Stat("out"); err == nil {
		t.Errorf("a stopped run has written a model")
	}

	words := strings.Fields(lastLine(stderr))
	if sig == syscall.SIGTERM { // the bits do not depend on the threads, so a run may go on with fewer or more
		words = append(words, "--threads", strconv.Itoa(runtime.GOMAXPROCS(0)+1))
	}
	code, _, again := invoke(words[1:]...)
	if code != 0 || !strings.Contains(again, "going on after shot 2 of 6") {
		t.Fatalf("exit code %d:\n%s\nafter\n%s", code, again, stderr)
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

// What would be caught: a second signal that comes with the first, as from programs like timeout, and ends the process at once.
func TestTwoSignalsAtOnce(t *testing.T) {
	tiny(t)
	_, stderr := stoppedBy(t, `msg=begin stage="shot 2 of 6: curvature"`, []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}, pruneArgs("--shots", "6", "--samples", "60")...)
	if !strings.Contains(stderr, "; the same command goes on after shot 1:\n") {
		t.Errorf("one signal was taken for two:\n%s", stderr)
	}
}

// What would be caught: a second signal that does not end a process at once, or that tells of shots where the command has none.
func TestSecondSignal(t *testing.T) {
	tiny(t)
	writeFile(t, "table.yaml", oneRow)
	if err := os.Mkdir("hangs", 0o755); err != nil {
		t.Fatal(err)
	}
	const pipe = "hangs/config.json" // who reads it waits for what is never written
	if err := unix.Mkfifo(pipe, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		onward string
	}{
		{[]string{"prune", "hangs", "--text", "text.txt", "--target", "0.3", "-o", "out"}, "; give the same command again to go on after the last complete shot"},
		{[]string{"prune", "hangs", "--text", "text.txt", "--target", "0.3", "-o", "out", "--dry-run"}, ""},
		{[]string{"eval", "hangs", "--text", "text.txt"}, ""},
		{[]string{"eval", "hangs", "--tasks", "quiz.jsonl", "--results", "r.jsonl"}, "; give the same command again to go on with the questions that r.jsonl has no results of"},
		{[]string{"table", "table.yaml", "--model", "hangs", "--results", "results"}, "; give the same command again to go on with what results does not hold yet"},
	} {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cmd := exec.Command(self, c.args...)
		cmd.Env, cmd.Stderr = append(os.Environ(), "SURGEON_TEST_MAIN=1"), &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		held, err := os.OpenFile(pipe, os.O_WRONLY, 0) // when the process has opened it too
		if err != nil {
			t.Fatal(err)
		}
		cmd.Process.Signal(syscall.SIGINT)
		time.Sleep(oneSignal + 200*time.Millisecond)
		cmd.Process.Signal(syscall.SIGINT)
		cmd.Wait()
		held.Close()
		if code, want := cmd.ProcessState.ExitCode(), "surgeon: stopped at once by a second SIGINT"+c.onward; code != exitStopped || lastLine(stderr.String()) != want {
			t.Errorf("%v: exit code %d, want %q at the end of\n%s", c.args, code, want, &stderr)
		}
	}
}

// stoppedBy runs the program in a process of its own, sends it signals at the first line that holds some words, and is the
// program's name and what it told.
func stoppedBy(t *testing.T, at string, signals []syscall.Signal, args ...string) (self, stderr string) {
	t.Helper()
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
	var told bytes.Buffer
	sent := false
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		told.WriteString(lines.Text() + "\n")
		if !sent && strings.Contains(lines.Text(), at) {
			for _, sig := range signals {
				cmd.Process.Signal(sig)
			}
			sent = true
		}
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitStopped {
		t.Fatalf("exit code %d, want %d:\n%s", code, exitStopped, &told)
	}
	return self, told.String()
}

// What would be caught: a stopped table that does not say how to go on, one that begins its run again, and one that is refused
// in its middle because a row was changed meanwhile.
func TestTableStopAndGoOn(t *testing.T) {
	tiny(t)
	writeFile(t, "table.yaml", strings.NewReplacer("samples: 8", "samples: 60", "preset: magnitude", "shots: 6", "structure: element", "structure: rowcol").Replace(oneRow))
	self, stderr := stoppedBy(t, `msg=begin stage="shot 3 of 6: curvature"`, []syscall.Signal{syscall.SIGINT}, "table", "table.yaml", "--results", "results")
	if want := "surgeon: stopped by SIGINT; the same command goes on with what results does not hold yet:\n\n    " + self + " table table.yaml --results results\n"; !strings.HasSuffix(stderr, want) {
		t.Errorf("no %q at the end of\n%s", want, stderr)
	}
	whole := readFile(t, "table.yaml")
	writeFile(t, "table.yaml", strings.Replace(whole, "shots: 6", "shots: 2", 1))
	madeTable(t)
	writeFile(t, "table.yaml", whole)
	if code, _, again := invoke("table", "table.yaml", "--results", "results"); code != 0 || !strings.Contains(again, "going on after shot 2 of 6") {
		t.Errorf("exit code %d:\n%s", code, again)
	}
	if got := directories(t); len(got) != 0 {
		t.Errorf("there are still %q", got)
	}
}
