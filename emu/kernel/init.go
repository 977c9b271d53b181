package kernel

import (
	"context"
	"net"
	"os"
)

// IsInit tells whether this process is process 1 of a kernel booted by Start.
func IsInit() bool { return os.Getpid() == 1 && os.Getenv("VPCLAB_INIT") != "" }

// Init is the life of process 1: it makes the kernel ready, answers the
// control channel with serve, and powers off. It does not return.
func Init(serve func(ctx context.Context, ln net.Listener, args []string) error) { os.Exit(1) }
