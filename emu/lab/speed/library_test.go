package speed

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// library builds the star as programs commonly use the netlink library: one
// request after the other, a veth made at home and moved to where it belongs.
func library(n int) (*built, error) {
	var l libraryStar
	took, err := timed(func() error { return onThread(func() error { return l.build(n) }) })
	if err != nil {
		return nil, err
	}
	return &built{
		took: took,
		within: func(i int, fn func() error) error {
			return onThread(func() error { return errors.Join(netns.Set(l.machines[i]), fn()) })
		},
		destroy: func() (time.Duration, error) { return timed(l.destroy) },
	}, nil
}

type libraryStar struct{ hubs, machines []netns.NsHandle }

func (l *libraryStar) destroy() error {
	w, err := newWitness(int(l.machines[len(l.machines)-1]))
	if err != nil {
		return err
	}
	defer w.close()
	for _, ns := range append(l.hubs, l.machines...) {
		ns.Close()
	}
	return w.wait()
}

func (l *libraryStar) build(n int) error {
	var bridge *netlink.Bridge
	for i := range n {
		h := i / perHub
		if i%perHub == 0 {
			hub, err := netns.New()
			if err != nil {
				return err
			}
			l.hubs = append(l.hubs, hub)
			off := false
			bridge = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan"}, MulticastSnooping: &off}
			err = errors.Join(netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge), netlink.AddrAdd(bridge, ipNet(hubAddr(h))))
			if err != nil {
				return fmt.Errorf("hub %d: %w", h+1, err)
			}
		}
		if err := l.machine(i, l.hubs[h], bridge); err != nil {
			return fmt.Errorf("machine %d: %w", i+1, err)
		}
	}
	return nil
}

// machine makes one machine; the thread is at its hub before and after.
func (l *libraryStar) machine(i int, hub netns.NsHandle, bridge *netlink.Bridge) error {
	machine, err := netns.New()
	if err != nil {
		return err
	}
	l.machines = append(l.machines, machine)
	if err := netns.Set(hub); err != nil {
		return err
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: portName(i)}, PeerName: "eth0"}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	err = errors.Join(netlink.LinkSetNsFd(eth0, int(machine)), netlink.LinkSetMaster(veth, bridge), netlink.LinkSetUp(veth), netns.Set(machine))
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if eth0, err = netlink.LinkByName("eth0"); err != nil {
		return err
	}
	gateway := hubAddr(i / perHub)
	return errors.Join(netlink.LinkSetUp(lo), netlink.LinkSetUp(eth0), netlink.AddrAdd(eth0, ipNet(machineAddr(i))),
		netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: gateway[:]}), netns.Set(hub))
}

func ipNet(addr [4]byte) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: addr[:], Mask: net.CIDRMask(starBits, 32)}}
}
