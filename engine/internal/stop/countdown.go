package stop

import (
	"context"
	"sync/atomic"
)

// Countdown is, for tests, a context that is done when it is looked at for the n-th time.
func Countdown(n int) context.Context {
	c := &countdown{Context: context.Background()}
	c.left.Store(int64(n))
	return c
}

type countdown struct {
	context.Context
	left atomic.Int64
}

func (c *countdown) Err() error {
	if c.left.Add(-1) > 0 {
		return nil
	}
	return context.Canceled
}
