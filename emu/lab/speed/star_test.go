package speed

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/topo"
)

// A star is what everybody builds: n machines, each a namespace with one link
// to a bridge in a hub's namespace. A machine has eth0 with an address, a
// default route to the address of its hub's bridge, and lo and eth0 up. Both
// ends of a link are made in place where the builder knows how to, and IPv6 is
// off in this kernel, so that nobody pays for it.

// perHub keeps a bridge below the kernel's 1023 ports.
const perHub = 1000

// hubs is how many bridges n machines need.
func hubs(n int) int { return (n + perHub - 1) / perHub }

// machineAddr is machine i's address, from 0: 10.<hub>.x.y/16.
func machineAddr(i int) [4]byte {
	at := i%perHub + 1
	return [4]byte{10, byte(i / perHub), byte(at >> 8), byte(at)}
}

// hubAddr is the address of hub h's bridge, from 0.
func hubAddr(h int) [4]byte { return [4]byte{10, byte(h), 255, 254} }

// starBits is the prefix length of all addresses.
const starBits = 16

func hubName(h int) string     { return fmt.Sprintf("hub%d", h+1) }
func machineName(i int) string { return fmt.Sprintf("m%d", i+1) }
func portName(i int) string    { return fmt.Sprintf("p%d", i+1) }

// starPlan is the star as a plan of plain nodes.
func starPlan(lab string, n int) *topo.Plan {
	p := &topo.Plan{Lab: lab, Nodes: make([]topo.Node, 0, n+hubs(n)), Links: make([]topo.Link, 0, n)}
	for h := range hubs(n) {
		p.Nodes = append(p.Nodes, topo.Node{Name: hubName(h), Kind: topo.KindPlain, Index: h + 1, Bridges: []topo.Bridge{
			{Name: "lan", MAC: topo.MAC{2, 0xb, 0, 0, 0, byte(h)}, Addr: netip.PrefixFrom(netip.AddrFrom4(hubAddr(h)), starBits)}}})
	}
	anywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	for i := range n {
		h, hi, lo := i/perHub, byte(i>>8), byte(i)
		p.Nodes = append(p.Nodes, topo.Node{Name: machineName(i), Kind: topo.KindPlain, Index: hubs(n) + i + 1,
			Routes: []topo.Route{{Dst: anywhere, Via: netip.AddrFrom4(hubAddr(h)), Dev: "eth0"}}})
		p.Links = append(p.Links, topo.Link{MTU: 1500,
			A: topo.Endpoint{Node: machineName(i), Ifname: "eth0", MAC: topo.MAC{2, 1, 0, 0, hi, lo}, Addr: netip.PrefixFrom(netip.AddrFrom4(machineAddr(i)), starBits)},
			B: topo.Endpoint{Node: hubName(h), Ifname: portName(i), MAC: topo.MAC{2, 2, 0, 0, hi, lo}, Bridge: "lan"}})
	}
	return p
}

// built is a star that stands.
type built struct {
	took time.Duration // to build it
	// within runs fn in a machine's namespace, on a thread that is there.
	within func(machine int, fn func() error) error
	// destroy takes all of it away and says how long it took until it was
	// gone.
	destroy func() (time.Duration, error)
}

// timed is how long fn took.
func timed(fn func() error) (time.Duration, error) {
	began := time.Now()
	err := fn()
	return time.Since(began), err
}

// onThread runs fn on a thread of its own and brings it home to the namespace it
// was in: no thread may be left behind in a namespace that is to end.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err == nil {
			err = fn()
			err = errors.Join(err, netns.Set(home), home.Close())
		}
		if err == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// inNamespace runs fn in the namespace that open gives; it is closed after.
func inNamespace(open func() (netns.NsHandle, error), fn func() error) error {
	return onThread(func() error {
		ns, err := open()
		if err != nil {
			return err
		}
		defer ns.Close()
		return errors.Join(netns.Set(ns), fn())
	})
}

// works proves that packets go through the star: its first and last machine
// get an answer from their bridge and from each other's.
func (b *built) works(n int) error {
	for _, i := range []int{0, n - 1} {
		err := b.within(i, func() error { return answers(hubAddr(i / perHub)) })
		if err != nil {
			return fmt.Errorf("machine %d: %w", i+1, err)
		}
	}
	if hubs(n) > 1 {
		return nil // machines of different bridges cannot meet
	}
	if err := b.within(0, func() error { return answers(machineAddr(n - 1)) }); err != nil {
		return fmt.Errorf("machine 1 to machine %d: %w", n, err)
	}
	return nil
}

// answers says whether addr is reached from this thread's namespace: nobody
// listens there, and only a host that is reached can say so.
func answers(addr [4]byte) error {
	const deadline = 10 * time.Second
	at := netip.AddrPortFrom(netip.AddrFrom4(addr), 9).String()
	conn, err := net.DialTimeout("tcp4", at, deadline)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return nil
	case err == nil:
		conn.Close()
		return fmt.Errorf("somebody listens at %s", at)
	}
	return fmt.Errorf("waited %v for an answer of %s: %w", deadline, at, err)
}
