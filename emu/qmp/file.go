package qmp

import (
	"context"
	"os"
)

// Commands that give QEMU an open file. QEMU has a descriptor of its own then;
// the caller's stays the caller's.

// GetFD gives QEMU a file under a name, by which commands can refer to it until
// it is closed: migrate's "fd:name" takes it and closes it.
func (c *Client) GetFD(ctx context.Context, name string, file *os.File) error {
	return c.SendFD(ctx, name, file).Wait(ctx, nil)
}

// SendFD is GetFD without the wait for its answer.
func (c *Client) SendFD(ctx context.Context, name string, file *os.File) *Call {
	return c.sendWith(ctx, "getfd", map[string]any{"fdname": name}, file)
}

// AddFD puts a file into a set of files that QEMU opens as /dev/fdset/<set>. fd is
// its number in QEMU.
func (c *Client) AddFD(ctx context.Context, set int, file *os.File) (fd int, err error) {
	var r struct {
		FD int `json:"fd"`
	}
	err = c.sendWith(ctx, "add-fd", map[string]any{"fdset-id": set}, file).Wait(ctx, &r)
	return r.FD, err
}
