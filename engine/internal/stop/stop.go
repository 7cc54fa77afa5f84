// Package stop lets long reading be stopped.
package stop

import (
	"context"
	"errors"
	"io"
)

// Reader reads what r does until ctx is done, whose error it returns then. A file of gigabytes takes minutes, and io.Copy asks for 32
// KiB at a time.
func Reader(ctx context.Context, r io.Reader) io.Reader { return reader{ctx, r} }

type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// Asked tells whether an error says that a context was done: nothing was wrong.
func Asked(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
