package fabric

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric/direct"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/topo"
)

// forwardingDeadline is how long a port may take until it forwards: a
// notification after its machine's end is up.
const forwardingDeadline = 5 * time.Second

// announcements are the moments, from the first, at which a machine's place is
// announced. A single announcement that is lost on the way would never be made
// up for: the bridges would go on sending to where the machine was until it
// speaks or its entry ages. Bridges on the way may need a moment until their
// ports forward, and a stall of the kernel must not swallow all of them.
var announcements = []time.Duration{0, 20 * time.Millisecond, 70 * time.Millisecond, 170 * time.Millisecond}

// Announce tells a LAN that a machine is now behind a port of the node's
// bridge, as a hypervisor does for a VM that it took over (the VM itself need
// not know that it moved): the bridge learns the machine at the port, and an
// unsolicited ARP request from the machine's MAC for its own address (RFC 5227,
// section 3) floods the LAN, so that every bridge on the way learns it too.
// It waits until the port forwards, sends the first at once, and returns after
// the last, 170 ms later. Each is an event "mac.announced".
func (f *Fabric) Announce(ctx context.Context, node, port string, mac topo.MAC, ip netip.Addr) error {
	return f.AnnounceThen(ctx, node, port, mac, ip, func() {})
}

// AnnounceThen is Announce for who goes on at the first announcement: begun is
// called when that is on its way.
func (f *Fabric) AnnounceThen(ctx context.Context, node, port string, mac topo.MAC, ip netip.Addr, begun func()) error {
	if !ip.Is4() {
		return fmt.Errorf("announce %v at %s:%s: want an IPv4 address, got %v", mac, node, port, ip)
	}
	var d *door
	err := f.Do(node, func() (err error) {
		d, err = openDoor()
		return err
	})
	if err == nil {
		defer d.close()
		a := announcement{node: node, port: port, mac: mac, ip: ip, door: d, begun: begun}
		if a.index, a.bridge, err = d.awaitForwarding(ctx, port); err == nil {
			err = a.send(ctx, f.sink)
		}
	}
	if err != nil {
		return fmt.Errorf("announce %v at %s:%s: %w", mac, node, port, err)
	}
	return nil
}

// door is what an announcement is made by in a node's namespace, which is
// entered once for all of it.
type door struct {
	watch, look *rtnl.Conn
	packets     int // socket
}

// openDoor opens the door of the namespace that the thread is in.
func openDoor() (_ *door, err error) {
	d := &door{packets: -1}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.watch, err = rtnl.Dial(); err != nil {
		return nil, err
	}
	if d.look, err = rtnl.Dial(); err != nil {
		return nil, err
	}
	if d.packets, err = direct.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	return d, nil
}

func (d *door) close() {
	for _, c := range []*rtnl.Conn{d.watch, d.look} {
		if c != nil {
			c.Close()
		}
	}
	if d.packets >= 0 {
		_ = direct.Close(d.packets) // nothing waits in it
	}
}

// announcement is a machine's place.
type announcement struct {
	node, port    string
	mac           topo.MAC
	ip            netip.Addr
	index, bridge int // of port and bridge
	door          *door
	begun         func()
}

// awaitForwarding waits until a port of a bridge forwards. What comes before
// is lost without anybody noticing.
func (d *door) awaitForwarding(ctx context.Context, port string) (index, bridge int, err error) {
	if err := d.watch.Watch(unix.RTNLGRP_LINK); err != nil {
		return 0, 0, err
	}
	links, err := d.look.Links() // after the watch began, so that nothing is missed between
	if err != nil {
		return 0, 0, err
	}
	state := rtnl.PortState(0)
	for _, l := range links {
		if l.Name != port {
			continue
		}
		if l.MasterKind != "bridge" {
			return 0, 0, fmt.Errorf("%s is not a port of a bridge", port)
		}
		index, bridge, state = l.Index, l.Master, l.Port
	}
	if index == 0 {
		return 0, 0, fmt.Errorf("no interface %s", port)
	}
	if state == rtnl.PortForwarding {
		return index, bridge, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, forwardingDeadline, fmt.Errorf("not after %v", forwardingDeadline))
	defer cancel()
	err = d.watch.Await(ctx, func(typ uint16, l rtnl.LinkInfo) bool {
		if typ == unix.RTM_NEWLINK && l.Index == index && l.MasterKind == "bridge" {
			state = l.Port
		}
		return state == rtnl.PortForwarding
	})
	if err != nil {
		return 0, 0, fmt.Errorf("wait until the port, which is %v, forwards: %w", state, err)
	}
	return index, bridge, nil
}

// send sends the announcements through the bridge itself, which floods
// them by all its ports. A bridge does not learn from what it sends, so it is
// told first: what it knew until now is the way to the old place.
func (a announcement) send(ctx context.Context, sink event.Sink) error {
	var b rtnl.Batch
	b.Learn(rtnl.FDBEntry{MAC: a.mac, Port: a.index})
	if err := a.door.look.Do(&b); err != nil {
		return err
	}
	to := &unix.SockaddrLinklayer{Ifindex: a.bridge, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	frame, begin := a.frame(), time.Now()
	for i, at := range announcements {
		timer := time.NewTimer(time.Until(begin.Add(at)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		if err := unix.Sendto(a.door.packets, frame, 0, to); err != nil {
			return fmt.Errorf("send announcement %d of %d: %w", i+1, len(announcements), err)
		}
		if i == 0 {
			a.begun()
		}
		sink(event.New(a.node, "mac.announced", map[string]string{
			"port": a.port, "mac": a.mac.String(), "address": a.ip.String(), "n": strconv.Itoa(i + 1)}))
	}
	return nil
}

// frame is an ARP request (RFC 826) by the machine for its own address, padded
// to what Ethernet asks for.
func (a announcement) frame() []byte {
	const request, minimum = 1, 60
	f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, a.mac[:]...)
	f = append(f, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, request)
	f = append(append(f, a.mac[:]...), a.ip.AsSlice()...)
	f = append(append(f, 0, 0, 0, 0, 0, 0), a.ip.AsSlice()...)
	return append(f, make([]byte, minimum-len(f))...)
}
