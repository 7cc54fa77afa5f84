//go:build !cuda

package telemetry

import (
	"errors"

	"surgeon/engine/report"
)

// NVML is the driver's library, which builds without CUDA do not look for.
type NVML struct{}

// Watch samples a GPU.
type Watch struct{}

// Open fails.
func Open() (*NVML, error) { return nil, errors.New("this build has no CUDA") }

// The methods are there to compile; nobody has a value to call them on.

func (*NVML) Close()                          {}
func (*NVML) Now(string) (*report.GPU, error) { return nil, nil }
func (*NVML) Watch(string) (*Watch, error)    { return nil, nil }
func (*Watch) GPU() *report.GPU               { return nil }
func (*Watch) Stop()                          {}
