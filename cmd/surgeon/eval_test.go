package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// quiz is a task of three questions.
const quiz = `{"context": "The sky", "choices": [" is", " fish", " a"], "answer": 0}

{"context": "2 + 2 =", "choices": [" 4", " 5"], "answer": 1, "source": "of nothing"}
{"context": "one", "choices": [" two", " three", " four", " five"], "answer": 3}
`

// longQuiz is a task of n questions.
func longQuiz(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"context": "%s", "choices": [" %d", " no %d"], "answer": %d}`+"\n", strings.Repeat("word ", 1+i%10), i, i*i, i%2)
	}
	return b.String()
}

// What would be caught: a table or JSON with other figures than the engine's, or none; a perplexity that tasks change.
func TestEvalTasks(t *testing.T) {
	tiny(t)
	writeFile(t, "quiz.jsonl", quiz)
	writeFile(t, "one.jsonl", `{"context": "a", "choices": [" b", " b"], "answer": 0}`)
	code, stdout, stderr := invoke("eval", "model", "--tasks", "quiz.jsonl", "--tasks", "one.jsonl", "--json")
	if code != 0 {
		t.Fatal(stderr)
	}
	var got struct {
		Tasks []struct {
			Of, Task           string
			Items              int
			Acc                float64
			AccStderr          *float64 `json:"acc_stderr"`
			AccNorm            float64  `json:"acc_norm"`
			AccNormStderr      *float64 `json:"acc_norm_stderr"`
			Perplexity, Tokens *float64
		}
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || len(got.Tasks) != 2 || strings.Contains(stdout, "perplexity") {
		t.Fatalf("%v in\n%s", err, stdout)
	}
	q, one := got.Tasks[0], got.Tasks[1]
	if q.Of != "model" || q.Task != "quiz" || q.Items != 3 || q.AccStderr == nil || one.Task != "one" || one.Acc != 1 || one.AccStderr != nil {
		t.Errorf("%s", stdout)
	}
	code, alone, stderr := invoke("eval", "model", "--text", "text.txt", "--length", "32")
	if code != 0 {
		t.Fatal(stderr)
	}
	code, stdout, stderr = invoke("eval", "model", "--text", "text.txt", "--length", "32", "--tasks", "quiz.jsonl", "--tasks", "one.jsonl")
	if code != 0 {
		t.Fatal(stderr)
	}
	perplexity, _, _ := strings.Cut(alone, "\n")
	if code, named, stderr := invoke("eval", "model", "--text", "a=text.txt", "--text", "b=text.txt", "--length", "32"); code != 0 || !strings.Contains(named, "a: "+perplexity+"\nb: "+perplexity+"\n") {
		t.Errorf("with names:\n%s%s", named, stderr)
	}
	for _, want := range []string{perplexity + "\n", "tokens per second.\n\n", "task     items               acc          acc_norm\n",
		fmt.Sprintf("quiz         3%18s%18s\n", fmt.Sprintf("%.2f ± %.2f %%", 100*q.Acc, 100**q.AccStderr), fmt.Sprintf("%.2f ± %.2f %%", 100*q.AccNorm, 100**q.AccNormStderr)),
		"one          1          100.00 %          100.00 %\n"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
}

// What would be caught: an evaluation that a signal does not end, or kill -9 leaves unable to go on; a last line that is not
// the command to go on with; results that differ afterwards.
func TestStopEval(t *testing.T) {
	tiny(t)
	writeFile(t, "long.jsonl", longQuiz(600))
	args := []string{"eval", "model", "--tasks", "long.jsonl", "--results", "r.jsonl", "--device", "cpu", "--batch", "5"}
	if code, _, stderr := invoke("eval", "model", "--tasks", "long.jsonl", "--results", "whole.jsonl", "--device", "cpu", "--batch", "5"); code != 0 {
		t.Fatal(stderr)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGKILL} {
		before := len(linesOf(t, "r.jsonl"))
		cmd := exec.Command(self, args...)
		cmd.Env = append(os.Environ(), "SURGEON_TEST_MAIN=1")
		pipe, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var stderr strings.Builder
		for in := bufio.NewScanner(pipe); in.Scan(); {
			stderr.WriteString(in.Text() + "\n")
			if strings.Contains(in.Text(), `msg=begin stage="task long"`) {
				for len(linesOf(t, "r.jsonl")) < before+20 {
					time.Sleep(time.Millisecond)
				}
				cmd.Process.Signal(sig)
			}
		}
		cmd.Wait()
		if sig == syscall.SIGKILL {
			continue
		}
		want := "surgeon: stopped by SIGTERM; the same command goes on with the questions that r.jsonl has no results of:\n\n    " + self + " " + strings.Join(args, " ") + "\n"
		if code := cmd.ProcessState.ExitCode(); code != exitStopped || !strings.HasSuffix(stderr.String(), want) {
			t.Errorf("exit code %d:\n%s\nwant at its end\n%s", code, stderr.String(), want)
		}
	}
	left := len(linesOf(t, "r.jsonl"))
	if left < 60 || left >= 601 {
		t.Fatalf("%d lines are there after three stops", left)
	}
	code, _, stderr := invoke(args...)
	if code != 0 || !strings.Contains(stderr, "going on with r.jsonl, which has the results of ") {
		t.Fatal(stderr)
	}
	if readFile(t, "r.jsonl") != readFile(t, "whole.jsonl") {
		t.Error("the results differ from those of an evaluation that was not stopped")
	}
}

// linesOf are the lines of a file, none of one that is not there.
func linesOf(t testing.TB, path string) []string {
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.SplitAfter(string(data), "\n")
}

// What would be caught: a speed of loading, or of another text's reading, told as that of a text.
func TestStopwatch(t *testing.T) {
	var out bytes.Buffer
	w := &stopwatch{watcher: newLines(&out, common{}, 0, time.Now)}
	w.Stage("text", 0)
	w.Stage("load", 0)
	time.Sleep(30 * time.Millisecond)
	w.Stage("perplexity", 2)
	w.Stage("load", 0)
	w.Stage("tasks", 3)
	w.stop()
	w.stop()
	if len(w.stages) != 2 || w.stages[0] > 20*time.Millisecond || w.stages[1] > 20*time.Millisecond {
		t.Errorf("measured %v, want the perplexity and the tasks", w.stages)
	}
}
