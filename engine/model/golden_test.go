package model_test

import (
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/enginetest"
)

// See enginetest.Passes.
func TestGoldenPasses(t *testing.T) {
	enginetest.Passes(t, func(*testing.T) device.Device { return cpu.Open() })
}
