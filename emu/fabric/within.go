package fabric

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/direct"
)

// Within runs fn in the network namespace at path, which need not be one of
// ours: /proc/PID/ns/net is that of a process. Goroutines that fn starts are
// not in it; sockets that fn opens stay in it.
func Within(path string, fn func() error) error {
	fd, err := direct.Open(path, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer direct.Close(fd)
	return within(fd, fn)
}
