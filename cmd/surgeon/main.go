// Command surgeon makes trained language models smaller after training. It turns flags and YAML files into the options of
// package engine, shows what the engine is doing, and turns errors into one sentence and an exit code. It knows nothing of
// the method.
//
// # Who reads what
//
// Results go to stdout: sentences and tables, or one JSON object with --json. Everything that tells what is going on goes to
// stderr: a progress line and a table where that is a terminal (live.go), one log line per step elsewhere (lines.go).
//
// # Exit codes
//
//	0    done
//	1    the run failed: a full disk, a loss that is not a number, a bug
//	2    the request was wrong; nothing was written
//	130  stopped by SIGINT or SIGTERM; the last line is the command with which the run goes on
package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"surgeon/engine"
	"surgeon/engine/report"
)

const (
	exitDone    = 0
	exitFailed  = 1
	exitRequest = 2
	exitStopped = 130 // what shells give for SIGINT
)

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(engine.GCPercent)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program. args are the arguments without the program's name.
func run(args []string, stdout, stderr io.Writer) (code int) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	s := &session{ctx: ctx, args: args, stdout: stdout, stderr: stderr}
	s.json, s.logJSON = jsonAsked(args)
	defer s.close()
	defer s.stopOnSignal(cancel)()
	defer func() {
		if p := recover(); p != nil {
			code = s.fail(&bugError{value: p, stack: debug.Stack()})
		}
	}()
	command, err := parse(s, args)
	if err == nil && command != nil {
		if err = s.handOver(command); err == nil {
			err = command.Run()
		}
	}
	if err != nil {
		return s.fail(err)
	}
	return exitDone
}

// parse is the command that the arguments ask for, or nil where the parser has done all there was to do, such as --help.
func parse(s *session, args []string) (command *kong.Context, err error) {
	type exited int
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(exited); !ok {
				panic(p)
			}
			command, err = nil, nil
		}
	}()
	grammar := &grammar{}
	parser, err := newParser(grammar, s, func(code int) { panic(exited(code)) })
	if err != nil {
		return nil, fmt.Errorf("the description of the flags is wrong: %w", err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err = parser.Parse(joinNegative(args))
	if err == nil {
		s.given, s.typed = given(command)
	}
	return command, err
}

// given are the names of the flags that the command line or a YAML file sets, and of those on the command line alone.
func given(command *kong.Context) (all, typed []string) {
	for _, p := range command.Path {
		if p.Flag != nil {
			all = append(all, p.Flag.Name)
			if !p.Resolved {
				typed = append(typed, p.Flag.Name)
			}
		}
	}
	return all, typed
}

// session is one invocation of the program.
type session struct {
	ctx            context.Context
	args           []string // without the program's name
	stdout, stderr io.Writer
	json           bool // results and errors are JSON on stdout
	logJSON        bool // lines on stderr are JSON, unless it is a terminal

	common   common
	watcher  watcher // of the command that runs; nil before
	config   configValues
	given    []string     // names of the flags that were set
	typed    []string     // of these, those on the command line
	noCUDA   string       // why the GPU of this machine is not handed over to, or ""
	pci      string       // place of the open GPU on the bus, or ""
	onward   atomic.Value // string: where the same command goes on, whenever the process ends; the goroutine of signals reads it
	closings []func()
}

// command is the program and its arguments.
func (s *session) command() []string { return append([]string{os.Args[0]}, s.args...) }

// spelledOut is the command with what a YAML file says in place of the file: what was asked for can be told from it alone.
func (s *session) spelledOut() []string {
	var words, after []string // the last of several files counts, so the place of the first is as good as any
	rest, found := s.command(), false
	for len(rest) > 0 && rest[0] != "--" {
		w := rest[0]
		rest = rest[1:]
		switch {
		case w == "--config":
			rest, found = rest[1:], true
		case strings.HasPrefix(w, "--config="):
			found = true
		case found:
			after = append(after, w)
		default:
			words = append(words, w)
		}
	}
	if !found {
		return s.command()
	}
	for _, name := range slices.Sorted(maps.Keys(s.config)) {
		if name == "model" || slices.Contains(s.typed, name) { // the model is no flag
			continue
		}
		values, isList := s.config[name].([]any)
		if !isList {
			values = []any{s.config[name]}
		}
		for _, v := range values {
			words = append(words, fmt.Sprintf("--%s=%v", name, v))
		}
	}
	return append(append(words, after...), rest...)
}

// atEnd has f called when the program ends, the last one first.
func (s *session) atEnd(f func()) { s.closings = append(s.closings, f) }

func (s *session) close() {
	for _, f := range slices.Backward(s.closings) {
		f()
	}
	s.closings = nil
}

// print writes a result to stdout in one piece. A result that nobody can get is a failure.
func (s *session) print(result string) error {
	if s.watcher != nil {
		s.watcher.End()
	}
	if _, err := io.WriteString(s.stdout, result); err != nil {
		return fmt.Errorf("writing the result to standard output: %w", err)
	}
	return nil
}

// oneSignal is how long after the first signal another one is taken for the same: programs like timeout send it to the process
// and to its group.
const oneSignal = 500 * time.Millisecond

// stopOnSignal cancels at the first SIGINT or SIGTERM and ends the process at the second. What a run had saved is as safe
// from that as from a power cut. The returned function gives the signals back.
func (s *session) stopOnSignal(cancel context.CancelCauseFunc) func() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		var first time.Time
		for {
			select {
			case <-done:
				return
			case sig := <-signals:
				if !first.IsZero() && time.Since(first) < oneSignal {
					continue
				}
				if !first.IsZero() {
					s.interject(s.stoppedAtOnce(signalName(sig)))
					os.Exit(exitStopped)
				}
				first = time.Now()
				s.interject(fmt.Sprintf("stopping at the next step; a second %v stops at once", signalName(sig)))
				cancel(&stopError{signal: signalName(sig)})
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// stoppedAtOnce is the sentence of a process that a second signal ends, with the way to go on where the command has one.
func (s *session) stoppedAtOnce(signal string) string {
	sentence := "stopped at once by a second " + signal
	if after, _ := s.onward.Load().(string); after != "" {
		sentence += "; give the same command again to go on " + after
	}
	return sentence
}

// interject tells a sentence in the middle of the work, on a line of its own, whatever a terminal shows at the time.
func (s *session) interject(sentence string) {
	if log := s.jsonLog(); log != nil {
		log.Warn(sentence)
		return
	}
	fmt.Fprintf(s.stderr, "\nsurgeon: %s\n", sentence)
}

func signalName(s os.Signal) string {
	if s == syscall.SIGTERM {
		return "SIGTERM"
	}
	return "SIGINT"
}

// jsonAsked says whether the arguments ask for JSON, of results and of log lines. The parser has no answer to that where the
// arguments are wrong, and errors of the parser are told in the same form as all others. No YAML file has these two flags.
func jsonAsked(args []string) (results, log bool) {
	for i, arg := range args {
		name, value, given := strings.Cut(arg, "=")
		if name == "--log-format" && !given && i+1 < len(args) {
			value = args[i+1]
		}
		switch name {
		case "--":
			return results, log
		case "--json":
			results = !given || slices.Contains([]string{"true", "yes", "1"}, strings.ToLower(value)) // as the parser takes them
		case "--log-format":
			log = value == "json"
		}
	}
	return results, log
}

// joinNegative turns "--target -1" into "--target=-1": the parser would take -1 for a flag and complain about something
// that nobody wrote.
func joinNegative(args []string) []string {
	var joined []string
	for i := 0; i < len(args); i++ {
		if i+1 < len(args) && strings.HasPrefix(args[i], "--") && len(args[i]) > 2 && !strings.Contains(args[i], "=") && isNegativeNumber(args[i+1]) {
			joined = append(joined, args[i]+"="+args[i+1])
			i++
			continue
		}
		joined = append(joined, args[i])
	}
	return joined
}

func isNegativeNumber(s string) bool {
	return len(s) > 1 && s[0] == '-' && (s[1] >= '0' && s[1] <= '9' || s[1] == '.')
}

// mostThreads may be asked for on any machine; the runtime ends the process at some thousands.
const mostThreads = 1024

// useThreads lets the program work on n cores, 0 for all, until it ends.
func (s *session) useThreads(n int) error {
	if n < 0 {
		return refuse("--threads is %d; it is a number of cores, 0 for all", n)
	}
	if n > mostThreads && n > runtime.NumCPU() {
		return refuse("--threads is %d; this machine has %s", n, report.Counted(runtime.NumCPU(), "core"))
	}
	if n > 0 {
		before := runtime.GOMAXPROCS(n)
		s.atEnd(func() { runtime.GOMAXPROCS(before) })
	}
	return nil
}
