package checkpoint

import (
	"context"
	"errors"
	"os"
	"testing"

	"surgeon/engine/internal/stop"
)

// What would be caught: a look at a whole model that cannot be stopped before its end.
func TestStopInside(t *testing.T) {
	dir := load(t, "tiny-llama").save(2)
	c := open(t, dir)
	for what, do := range map[string]func(ctx context.Context) error{
		"Hash":        func(ctx context.Context) error { _, err := c.Hash(ctx); return err },
		"CheckFinite": c.CheckFinite,
	} {
		for looks := 1; ; looks++ {
			err := do(stop.Countdown(looks))
			if err == nil {
				if looks < 4 {
					t.Errorf("%s looks %d times", what, looks-1)
				}
				break
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s, stopped at look %d: %v", what, looks, err)
			}
		}
	}
	large := c.files[0] // longer now, for a stop in the middle of it
	if err := os.Truncate(large, 8<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hash(stop.Countdown(100)); !errors.Is(err, context.Canceled) {
		t.Errorf("Hash of a large file: %v", err)
	}
}
