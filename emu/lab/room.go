package lab

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/vpclab/vpclab/emu/hypervisor"
	"github.com/vpclab/vpclab/emu/vmm"
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

// roomToProtect tells whether there is memory for the seats of protected VMs that
// are about to begin.
func roomToProtect(plan *topo.Plan, pairs []topo.Pair) error {
	var need topo.Size
	var names []string
	for _, pair := range pairs {
		if n, ok := plan.Node(pair.VM); ok && n.OwnKernel() {
			need += takesProtected(*n.Guest, pair.Mode)
			names = append(names, n.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return room("to protect the QEMU guest "+strings.Join(names, ", "), need)
}

// takesProtected is what a guest takes at both seats: a QEMU waits at the standby.
// Where memory is replicated the VM's seat has a copy as it was looked at last, and
// the standby has what has come of an epoch that is not whole yet.
func takesProtected(g topo.Guest, mode string) topo.Size {
	need := 2 * g.Takes()
	if mode == topo.ModeAsync || mode == topo.ModeCheckpoint {
		need += 2 * g.Memory
	}
	return need
}

// roomToMove tells what a guest takes while it moves, and whether there is memory
// for that beside the guests that move already.
func (l *Lab) roomToMove(n *topo.Node, algorithm string) (need topo.Size, err error) {
	if !n.OwnKernel() {
		return 0, nil
	}
	need = takesToMove(*n.Guest, algorithm)
	left, err := l.leftToMove()
	if err != nil {
		return 0, err
	}
	return need, enough("to move the QEMU guest "+n.Name, need, left)
}

// roomToMoveAll tells whether there is memory for some that are about to move at the
// same time, and take so much.
func (l *Lab) roomToMoveAll(vms []string, need topo.Size) error {
	if need == 0 {
		return nil
	}
	left, err := l.leftToMove()
	if err != nil {
		return err
	}
	return enough("to move "+strings.Join(vms, ", ")+" at the same time", need, left)
}

// leftToMove is the memory that is left to guests that do not move yet.
func (l *Lab) leftToMove() (topo.Size, error) {
	now, err := memoryLeft()
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var others topo.Size
	for _, m := range l.migrations {
		others += m.takes
	}
	if others == 0 {
		l.leftAtRest = now
	}
	return leftBeside(now, l.leftAtRest, others), nil
}

// takesToMove is what a guest takes while it moves, beside what it takes where it
// is: the destination has all of it too. Our own engine has a copy at the source as
// it was looked at last, and a pair one at each end; QEMU by itself has none.
func takesToMove(g topo.Guest, algorithm string) topo.Size {
	switch {
	case vmm.Native(algorithm):
		return g.Takes()
	case hypervisor.ByQEMU(algorithm):
		return g.Takes() + 2*g.Memory
	}
	return g.Takes() + g.Memory
}

// leftBeside is the memory that is left beside guests that move. Those take theirs
// bit by bit: what is free now is not all left, and what was free before the first
// of them began is, but for what they all take.
func leftBeside(now, atRest, others topo.Size) topo.Size {
	return max(min(now, atRest-others), 0)
}

func room(what string, need topo.Size) error {
	free, err := memoryLeft()
	if err != nil {
		return err
	}
	return enough(what, need, free)
}

func enough(what string, need, free topo.Size) error {
	if free < need+spare {
		return &NoRoomError{What: what, Need: need + spare, Free: free}
	}
	return nil
}

func memoryLeft() (topo.Size, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("ask for the memory that is left: %w", err)
	}
	defer f.Close()
	return available(f)
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
