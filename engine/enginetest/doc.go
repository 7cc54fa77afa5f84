// Package enginetest is the method's test suite on any device: golden cases in float64, and whole runs against the CPU. What
// devicetest is for single operations this is for all of them together.
package enginetest
