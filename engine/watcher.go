package engine

import "surgeon/engine/report"

// Watcher is told what a run is doing. Its methods are called from the goroutine of the run and should return soon.
type Watcher interface {
	// Stage says that a stage begins, with the number of steps it has; 0 where that is not known.
	Stage(name string, steps int)
	// Step says how many steps of the stage are done.
	Step(done int)
	// Say is a sentence for the user.
	Say(sentence string)
	// Warn is a sentence about something that is probably wrong.
	Warn(sentence string)
	// Shot is called after each shot. That of a bfloat16 model may be on its way to the work directory still, where it is when
	// the next one changes the weights, and when Prune returns.
	Shot(s report.Shot)
}
