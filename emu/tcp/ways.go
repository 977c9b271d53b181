package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ways tells the kernel what it cannot be told about a connection itself: how
// many segments may be under way. A new connection begins with ten, and one that
// has more under way when it begins could send nothing until a time-out of
// seconds. But a route may say how connections by it begin, so a connection is
// made by a route of its own to its peer, which is then taken away.
type ways struct {
	nl    *netlink.Handle
	known map[netip.Addr]netlink.Route // the way as it is without us
	ours  map[netip.Addr]netlink.Route
}

func openWays() (*ways, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a route netlink socket: %w", err)
	}
	return &ways{nl, map[netip.Addr]netlink.Route{}, map[netip.Addr]netlink.Route{}}, nil
}

// firstFlight is how many segments a new connection may have under way
// (RFC 6928).
const firstFlight = 10

// spareSegments may be under way besides those that were: what Resend writes.
const spareSegments = 6

// prepare makes the way for a connection, if it needs one of its own.
func (w *ways) prepare(c *Connection) (own bool, err error) {
	under := uint32(len(c.Unacked))/max(1, uint32(c.MSS)/2) + spareSegments
	if under <= firstFlight {
		return false, nil
	}
	peer := c.Remote.Addr()
	way, known := w.known[peer]
	if !known {
		found, err := w.nl.RouteGet(peer.AsSlice())
		if err != nil {
			return false, err
		}
		way = netlink.Route{LinkIndex: found[0].LinkIndex, Gw: found[0].Gw, Dst: &net.IPNet{IP: peer.AsSlice(), Mask: net.CIDRMask(32, 32)}}
		if way.Gw == nil {
			way.Scope = netlink.SCOPE_LINK
		}
		w.known[peer] = way
	}
	way.InitCwnd = int(max(c.Congestion, under))
	set := w.nl.RouteReplace
	if _, ours := w.ours[peer]; !ours {
		set = w.nl.RouteAdd
	}
	switch err := set(&way); {
	case errors.Is(err, unix.EEXIST): // somebody else's: as that one says, then
		return false, nil
	case err != nil:
		return false, err
	}
	w.ours[peer] = way
	return true, nil
}

// close takes the routes away.
func (w *ways) close() error {
	var errs []error
	for _, way := range w.ours {
		errs = append(errs, w.nl.RouteDel(&way))
	}
	w.nl.Close()
	return errors.Join(errs...)
}

// lookAgain is how often AwaitWay looks whether it is wanted no more.
const lookAgain = 100 * time.Millisecond

// AwaitWay waits until every interface of the calling thread's namespace that is
// up is ready to send. The kernel notices some time after a port has come up that
// there is a carrier, and until then drops what it is given.
func AwaitWay(ctx context.Context) error {
	news, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	defer news.Close()
	wait := unix.NsecToTimeval(lookAgain.Nanoseconds())
	if err := news.SetReceiveTimeout(&wait); err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("look at interfaces: %w", err)
	}
	defer links.Close()
	for {
		list, err := links.LinkList()
		if err != nil {
			return fmt.Errorf("look at interfaces: %w", err)
		}
		i := slices.IndexFunc(list, func(l netlink.Link) bool {
			flags := l.Attrs().RawFlags
			return flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING == 0
		})
		if i < 0 {
			return nil
		}
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("wait until %s has a carrier: %w", list[i].Attrs().Name, err)
		}
		if _, _, err := news.Receive(); err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watch interfaces: %w", err)
		}
	}
}
