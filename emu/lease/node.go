package lease

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// Node is a host's end of the leases of all VMs that have a seat at it: one UDP
// socket and one goroutine. It must be made in the host's network namespace.
type Node struct {
	name string
	conn *net.UDPConn
	done chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex
	closed bool
	seats  map[string]*Seat // by VM
	buf    []byte           // of sending
}

// Listen makes the host's end at addr, where the other members of its VMs find it.
func Listen(host string, addr netip.AddrPort) (*Node, error) {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, fmt.Errorf("leases of %s: %w", host, err)
	}
	n := &Node{name: host, conn: conn, done: make(chan struct{}), seats: map[string]*Seat{}}
	go n.run()
	return n, nil
}

// Addr is where it listens.
func (n *Node) Addr() netip.AddrPort { return n.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// Close gives up all seats; no callback is under way when it returns.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed = true
	seats := make([]*Seat, 0, len(n.seats))
	for _, s := range n.seats {
		seats = append(seats, s)
	}
	n.mu.Unlock()
	err := n.conn.Close()
	<-n.done
	for _, s := range seats {
		s.Leave()
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("leases of %s: %w", n.name, err)
	}
	return nil
}

// run takes what arrives and does what is due.
func (n *Node) run() {
	defer close(n.done)
	b := make([]byte, maxDatagram+1)
	for {
		size, from, err := n.conn.ReadFromUDPAddrPort(b)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && n.isClosed() {
			return
		}
		n.mu.Lock()
		// The clock is read after the packet: a process that was stopped meanwhile
		// finds out here, before it believes anything.
		now := event.Now()
		if err == nil {
			n.receive(now, b[:size], from)
		}
		for _, s := range n.seats {
			if s.holder.Next(now) <= now {
				s.holder.Tick(now)
			}
			n.flush(s, now)
		}
		n.sleep(now)
		n.mu.Unlock()
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			// The kernel is short of something. What is due is done all the same.
			time.Sleep(time.Millisecond)
		}
	}
}

func (n *Node) isClosed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed
}

// receive gives a packet to its seat, if it is what it says.
func (n *Node) receive(now event.Mono, b []byte, from netip.AddrPort) {
	p, err := parse(b)
	if err != nil {
		return
	}
	s := n.seats[p.vm]
	if s == nil || s.config.Instance != p.instance || p.From == s.me || !same(from, s.config.Members[p.From].Addr) {
		return
	}
	p.To = s.me
	s.holder.Receive(now, p.Message)
}

// same: an IPv4 address may come as one of IPv6.
func same(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && a.Addr().Unmap() == b.Addr().Unmap()
}

// flush sends what a holder has to say, and has its new state known.
func (n *Node) flush(s *Seat, now event.Mono) {
	for _, m := range s.holder.Out {
		n.buf = packet{s.config.VM, s.config.Instance, m}.append(n.buf[:0])
		// One that cannot be sent is a lost one: there will be others.
		_, _ = n.conn.WriteToUDPAddrPort(n.buf, s.config.Members[m.To].Addr)
	}
	s.holder.Out = s.holder.Out[:0]
	s.publish(now)
}

// sleep has the goroutine wake up when the next thing is due.
func (n *Node) sleep(now event.Mono) {
	if n.closed {
		return
	}
	next := now + event.Mono(time.Hour)
	for _, s := range n.seats {
		next = min(next, s.holder.Next(now))
	}
	_ = n.conn.SetReadDeadline(time.Now().Add(next.Sub(now)))
}
