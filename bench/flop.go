package bench

import (
	"surgeon/engine/checkpoint"
	"surgeon/engine/model"
	"surgeon/engine/prune"
)

// passFLOP is the arithmetic of forward, backward and factors of one window: 4 FLOP for each weight of the blocks and of the
// head and token (2 forward, 2 for the gradient at the input; block 0's first layers need none), N·n² for each factor of
// order n that units, which go by o and down alone, or other structures take, and the causal half of attention, 4·T²/2·d·H forward and
// 2.5 times that backward.
func passFLOP(cfg checkpoint.Config, tokens int, s prune.Structure) float64 {
	n := float64(tokens)
	flop := 4 * n * float64(cfg.Vocab) * float64(cfg.Width)
	seen := map[int]bool{}
	for _, l := range linears(cfg) {
		per := 4.0
		if l.Block == 0 && l.Input() == 0 {
			per = 2
		}
		flop += per * n * float64(l.Rows) * float64(l.Cols)
		if s == prune.Unit && !l.Consumer() {
			continue
		}
		flop += n * float64(l.Rows) * float64(l.Rows)
		if !seen[l.Input()] {
			seen[l.Input()] = true
			flop += n * float64(l.Inputs()) * float64(l.Inputs())
		}
	}
	return flop + 3.5*float64(cfg.Blocks)*2*n*n*float64(cfg.HeadDim)*float64(cfg.Heads)
}

func linears(cfg checkpoint.Config) []model.Linear {
	var all []model.Linear
	for _, spec := range cfg.Linears() {
		all = append(all, model.Linear{Linear: spec})
	}
	return all
}
