package lab

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// A machine that is plugged in elsewhere gets a new interface, and with the old
// one its kernel forgets the MACs of its neighbours. A VM that moves takes its
// memory along: so what it knew is put back. Otherwise its first packet would
// wait for an ARP request, which leaves while the port that it meets does not
// forward yet, is lost, and is repeated after a second.

// machineIf is the interface of a machine.
const machineIf = "eth0"

// known are the states of a neighbour whose MAC is known.
const known = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT

// neighbours are what machines know of their LANs.
type neighbours map[string][]netlink.Neigh

// rememberNeighbours reads them of the machines that plan plugs in elsewhere
// with the address that they have. One that cannot be read, because a change
// before failed and left it without an interface, knows nobody.
func rememberNeighbours(f *fabric.Fabric, plan *topo.Plan) neighbours {
	have := f.Current()
	addr := map[string]netip.Prefix{}
	for _, l := range have.Links {
		addr[l.A.Node] = l.A.Addr
	}
	all := neighbours{}
	moved := replugged(have, plan)
	if len(moved) == 0 {
		return all
	}
	now := map[string]netip.Prefix{}
	for _, l := range wires(plan) {
		now[l.A.Node] = l.A.Addr
	}
	for _, name := range moved {
		if addr[name] != now[name] {
			continue
		}
		_ = inMachine(f, name, func(h *netlink.Handle, eth0 netlink.Link) error {
			for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
				list, err := h.NeighList(eth0.Attrs().Index, family)
				if err != nil {
					return err
				}
				for _, n := range list {
					if n.State&known != 0 && len(n.HardwareAddr) > 0 {
						all[name] = append(all[name], n)
					}
				}
			}
			return nil
		})
	}
	return all
}

// restore puts them back, as not confirmed lately: they are used at once, and
// asked again by unicast in the kernel's own time.
func (all neighbours) restore(f *fabric.Fabric) error {
	for _, name := range keys(all) {
		err := inMachine(f, name, func(h *netlink.Handle, eth0 netlink.Link) error {
			for _, n := range all[name] {
				n.LinkIndex, n.State = eth0.Attrs().Index, netlink.NUD_STALE
				if err := h.NeighSet(&n); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("neighbours of %s: put back: %w", name, err)
		}
	}
	return nil
}

// inMachine runs fn with a netlink handle in a machine's namespace.
func inMachine(f *fabric.Fabric, name string, fn func(h *netlink.Handle, eth0 netlink.Link) error) error {
	return f.Do(name, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		eth0, err := h.LinkByName(machineIf)
		if err != nil {
			return err
		}
		return fn(h, eth0)
	})
}
