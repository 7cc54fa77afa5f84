package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"

	"surgeon/cgo"
	"surgeon/engine"
	"surgeon/engine/checkpoint"
	"surgeon/engine/report"
)

// stopError is the end of a run that a signal asked for. It is what the context of the run is cancelled with.
type stopError struct {
	signal string
	after  string   // where the run goes on; "" where there is nothing to go on with
	resume []string // the command with which it goes on
}

func (e *stopError) Error() string {
	if e.resume == nil {
		return "stopped by " + e.signal
	}
	return fmt.Sprintf("stopped by %s; the same command goes on %s:\n\n    %s", e.signal, e.after, report.ShellWords(e.resume))
}

// goesOn adds to the end of a run that a signal asked for where the same command goes on.
func (s *session) goesOn(err error, after string) error {
	stop, ok := errors.AsType[*stopError](context.Cause(s.ctx))
	if !ok || !errors.Is(err, context.Canceled) {
		return err
	}
	return &stopError{signal: stop.signal, after: after, resume: s.command()}
}

// bugError is a panic: of the device, which is told so about shapes that do not fit, or of anything else.
type bugError struct {
	value any
	stack []byte
}

func (e *bugError) Error() string {
	return fmt.Sprintf("this is a bug in surgeon, please report it with the command and the output of the same command with --verbose: %v", e.value)
}

// refuse makes an error of the kind that the engine refuses wrong requests with.
func refuse(format string, args ...any) error {
	return &engine.RequestError{Err: fmt.Errorf(format, args...)}
}

// fail tells an error to the user, in one sentence, and is the exit code that goes with it.
func (s *session) fail(err error) int {
	if s.watcher != nil {
		s.watcher.End()
	}
	code, sentence := s.judge(err)
	bug, isBug := errors.AsType[*bugError](err)
	isBug = isBug && s.common.Verbose
	switch log := s.jsonLog(); {
	case log != nil && isBug:
		log.Error(sentence, "stack", string(bug.stack))
	case log != nil:
		log.Error(sentence)
	default:
		fmt.Fprintf(s.stderr, "surgeon: %s\n", sentence)
		if isBug {
			fmt.Fprintf(s.stderr, "\n%s", bug.stack)
		}
	}
	if s.json {
		writeJSON(s.stdout, struct {
			Error string `json:"error"`
			Code  int    `json:"exit_code"`
		}{sentence, code})
	}
	return code
}

func (s *session) judge(err error) (code int, sentence string) {
	if stop, ok := errors.AsType[*stopError](err); ok {
		return exitStopped, stop.Error()
	}
	if stop, ok := errors.AsType[*stopError](context.Cause(s.ctx)); ok && errors.Is(err, context.Canceled) {
		return exitStopped, stop.Error()
	}
	if parse, ok := errors.AsType[*kong.ParseError](err); ok {
		if request, ok := errors.AsType[*engine.RequestError](err); ok { // of a flag's own check, such as --config
			return exitRequest, request.Error()
		}
		return exitRequest, parseSentence(parse)
	}
	if _, lost := errors.AsType[*checkpoint.Lost](err); lost || failedOnDevice(err) { // also in the middle of looking at what was asked for
		return exitFailed, err.Error()
	}
	if _, ok := errors.AsType[*engine.RequestError](err); ok {
		return exitRequest, err.Error()
	}
	return exitFailed, err.Error()
}

// failedOnDevice says whether a GPU that was open, and fit, failed or had no more memory.
func failedOnDevice(err error) bool {
	_, failed := errors.AsType[*cuda.Failure](err)
	_, full := errors.AsType[*cuda.OutOfMemory](err)
	return failed || full
}

// parseSentence adds to what the parser says what to do about it.
func parseSentence(err *kong.ParseError) string {
	sentence := strings.ReplaceAll(err.Error(), " (string)", "") // a Go type
	command, help := "", "surgeon --help"
	if err.Context != nil && err.Context.Selected() != nil {
		command = err.Context.Selected().Name
		help = err.Context.Selected().FullPath() + " --help"
	}
	if rest, ok := strings.CutPrefix(sentence, "unexpected argument "); ok && strings.Contains(" prune eval plan ", " "+command+" ") {
		if command == "eval" {
			return fmt.Sprintf("unexpected argument %s; several texts or tasks need --text or --tasks before each of them, or quotes around a pattern", rest)
		}
		return fmt.Sprintf("unexpected argument %s; several texts need --text before each of them, or quotes around a pattern", rest)
	}
	return fmt.Sprintf("%s; see %s", sentence, help)
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
