package tasks

import (
	"math"
	"strings"
	"unicode/utf8"

	"surgeon/engine/report"
)

// Picks are the choices that a model picks by their log-likelihoods: the first with the largest, and the first with the
// largest per character.
func (i Item) Picks(loglikelihoods []float64) (plain, norm int) {
	lengths := i.lengths()
	for k, ll := range loglikelihoods {
		if ll > loglikelihoods[plain] {
			plain = k
		}
		if ll/float64(lengths[k]) > loglikelihoods[norm]/float64(lengths[norm]) {
			norm = k
		}
	}
	return plain, norm
}

// lengths are the characters of each choice, without the space in front where all have one.
func (i Item) lengths() []int {
	space := 1
	for _, choice := range i.Choices {
		if !strings.HasPrefix(choice, " ") {
			space = 0
		}
	}
	lengths := make([]int, len(i.Choices))
	for k, choice := range i.Choices {
		lengths[k] = utf8.RuneCountInString(choice) - space
	}
	return lengths
}

// Score is what the model called of scores with the log-likelihoods of each item's choices.
func (t *Task) Score(of string, loglikelihoods [][]float64) report.TaskScore {
	n := len(t.Items)
	var right, rightNorm int
	for at, i := range t.Items {
		plain, norm := i.Picks(loglikelihoods[at])
		if plain == i.Answer {
			right++
		}
		if norm == i.Answer {
			rightNorm++
		}
	}
	return report.TaskScore{Of: of, Task: t.Name, File: report.File{Name: t.File.Path, SHA256: t.File.SHA256, Bytes: t.File.Bytes}, Items: n,
		Accuracy: float64(right) / float64(n), AccuracyError: meanError(right, n),
		AccuracyNorm: float64(rightNorm) / float64(n), AccuracyNormError: meanError(rightNorm, n)}
}

// meanError is the standard error of the mean p of n values that are 0 or 1, k of them 1: the standard deviation of a sample
// over √n, which is √(p(1−p)/(n−1)); nil for a single one, which tells nothing of how they vary.
func meanError(k, n int) *float64 {
	if n < 2 {
		return nil
	}
	p := float64(k) / float64(n)
	e := math.Sqrt(p * (1 - p) / float64(n-1))
	return &e
}
