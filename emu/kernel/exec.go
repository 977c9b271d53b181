package kernel

import (
	"context"
	"errors"
	"io"
)

// Exec boots a kernel as cfg says, runs argv inside with the given
// environment and streams in the current folder, and returns its exit code.
func Exec(ctx context.Context, cfg Config, argv, env []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	return 0, errors.New("not written")
}
