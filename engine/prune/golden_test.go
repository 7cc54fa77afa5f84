package prune_test

import (
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/enginetest"
)

func onCPU(*testing.T) device.Device { return cpu.Open() }

// See enginetest.CostsAndUpdates.
func TestGoldenCostsAndUpdates(t *testing.T) { enginetest.CostsAndUpdates(t, onCPU) }

// See enginetest.TwoShots.
func TestTwoShots(t *testing.T) { enginetest.TwoShots(t, onCPU) }

// See enginetest.WeightCostsAndUpdates.
func TestGoldenWeights(t *testing.T) { enginetest.WeightCostsAndUpdates(t, onCPU) }
