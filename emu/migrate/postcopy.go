package migrate

import (
	"context"
	"errors"
)

func (t *target) missing(ctx context.Context, payload []byte) error {
	return errors.New("post-copy: not yet")
}
