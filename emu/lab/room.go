package lab

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/vpclab/vpclab/topo"
)

// A QEMU for which the kernel has no memory is killed in the middle of its work,
// or another's is: so what VMs will take is compared with what is left before
// they start or move. Process guests take no more than files in a tmpfs, which
// refuses by itself.

// NoRoomError says that the lab's kernel has no memory for what was asked for.
type NoRoomError struct {
	What       string // in words
	Need, Free topo.Size
}

func (e *NoRoomError) Error() string {
	const step = topo.Size(64 << 20)
	return fmt.Sprintf("%s takes about %s of memory, and the lab's kernel has %s left: make the VMs smaller, or kernel.memory larger by %s",
		e.What, e.Need, e.Free/(1<<20)*(1<<20), (e.Need-e.Free+step-1)/step*step)
}

// spare is what is left to the kernel and to others.
const spare = topo.Size(32 << 20)

// roomToStart tells whether there is memory for guests that are about to start.
func roomToStart(guests []topo.Node) error {
	var need topo.Size
	var names []string
	for _, n := range guests {
		if n.OwnKernel() {
			need += n.Guest.Takes()
			names = append(names, n.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return room("to start the QEMU guest "+strings.Join(names, ", "), need)
}

// roomToMove tells whether there is memory for a guest to move: the destination
// has all of it too, and the source a copy as it was looked at last.
func roomToMove(n *topo.Node) error {
	if !n.OwnKernel() {
		return nil
	}
	return room("to move the QEMU guest "+n.Name, n.Guest.Takes()+n.Guest.Memory)
}

func room(what string, need topo.Size) error {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return fmt.Errorf("ask for the memory that is left: %w", err)
	}
	defer f.Close()
	free, err := available(f)
	if err != nil {
		return err
	}
	if free < need+spare {
		return &NoRoomError{What: what, Need: need + spare, Free: free}
	}
	return nil
}

// available is MemAvailable of a text as that of /proc/meminfo (proc(5)).
func available(r io.Reader) (topo.Size, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if name != "MemAvailable" {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 40)
		if err != nil {
			return 0, fmt.Errorf("memory that is left: %w", err)
		}
		return topo.Size(n << 10), nil
	}
	return 0, fmt.Errorf("memory that is left: /proc/meminfo has no MemAvailable: %w", lines.Err())
}
