package fabric

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/topo"
)

// Port is a port of a bridge of the namespace that this process is in: a host's
// agent takes those of protected VMs up and down by it (topo.Link.Seat). It is
// opened ahead of time, so that taking it up is one message to the kernel. It is
// for any number of goroutines.
type Port struct {
	name  string
	index int
	look  *rtnl.Conn
}

// OpenPort takes hold of a port.
func OpenPort(name string) (*Port, error) {
	conn, err := rtnl.Dial()
	if err != nil {
		return nil, fmt.Errorf("port %s: %w", name, err)
	}
	p := &Port{name: name, look: conn}
	links, err := conn.Links()
	for _, l := range links {
		if l.Name == name {
			p.index = l.Index
		}
	}
	if err == nil && p.index == 0 {
		err = fmt.Errorf("no interface of that name is here")
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("port %s: %w", name, err)
	}
	return p, nil
}

// Close lets go of it. It stays up or down.
func (p *Port) Close() { p.look.Close() }

// Up has the machine behind it heard, and hear.
func (p *Port) Up() error { return p.set("up", &up) }

// Down has it cut off: its machine's end loses carrier.
func (p *Port) Down() error { return p.set("down", &down) }

func (p *Port) set(what string, to *bool) error {
	var b rtnl.Batch
	b.LinkSet(rtnl.LinkChange{Index: p.index, Name: p.name, Up: to})
	if err := p.look.Do(&b); err != nil {
		return fmt.Errorf("take port %s %s: %w", p.name, what, err)
	}
	return nil
}

// IsUp tells how it is.
func (p *Port) IsUp() (bool, error) {
	links, err := p.look.Links()
	for _, l := range links {
		if l.Index == p.index {
			return l.Up, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("it is gone")
	}
	return false, fmt.Errorf("port %s: %w", p.name, err)
}

// Announce is Fabric.AnnounceThen from within the port's namespace.
func (p *Port) Announce(ctx context.Context, node string, mac topo.MAC, ip netip.Addr, sink event.Sink, begun func()) error {
	d, err := openDoor()
	if err == nil {
		defer d.close()
		a := announcement{node: node, port: p.name, mac: mac, ip: ip, door: d, begun: begun}
		if a.index, a.bridge, err = d.awaitForwarding(ctx, p.name); err == nil {
			err = a.send(ctx, sink)
		}
	}
	if err != nil {
		return fmt.Errorf("announce %v at port %s: %w", mac, p.name, err)
	}
	return nil
}
