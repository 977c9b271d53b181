package tcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A kernel remembers the connections of a process that was killed until their
// peers have heard of its end, and for seconds where they cannot. Meanwhile it
// takes no connection with the same two ends. It has no call to forget them: what
// SOCK_DESTROY does, it does to those that have a process.
//
// But a kernel believes a peer that it knows nothing of a connection (RFC 9293,
// section 3.5.1: a reset with the very number that is expected). So for a moment
// the peer's address is made ours, and what remains is asked for a word, by a
// segment that cannot be right. It answers with the numbers that it expects (RFC
// 9293, section 3.10.7.4), to an address where nobody knows of it: the answer to
// that is the reset, and it is the kernel's own.

// Bury ends what this kernel has left of connections with the same two ends as
// those given, without a word to their peers. It must have no process: the caller
// has not restored it. The namespace has no carrier, or nothing that is sent in it
// is let out.
func (r *Restorer) Bury(remains []*Connection) error {
	if err := r.bury(remains); err != nil {
		return fmt.Errorf("bury what remains of %d connections: %w", len(remains), err)
	}
	return nil
}

func (r *Restorer) bury(remains []*Connection) (err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW) // with IP headers
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	lo, err := r.ways.nl.LinkByName("lo")
	if err != nil {
		return err
	}
	ours := map[netip.Addr]bool{}
	for _, c := range remains {
		peer := c.Remote.Addr()
		if ours[peer] {
			continue
		}
		way := &netlink.Route{
			LinkIndex: lo.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
			Dst: &net.IPNet{IP: peer.AsSlice(), Mask: net.CIDRMask(32, 32)},
		}
		if err := r.ways.nl.RouteAdd(way); err != nil {
			return fmt.Errorf("make the address %v ours: %w", peer, err)
		}
		ours[peer] = true
		defer func() {
			if gone := r.ways.nl.RouteDel(way); gone != nil {
				err = errors.Join(err, fmt.Errorf("give the address %v back: %w", peer, gone))
			}
		}()
	}
	for _, c := range remains {
		// Of two numbers half of all apart, one at least is not expected.
		for _, seq := range []uint32{0, 1 << 31} {
			s := strange(c.Remote, c.Local, seq)
			if err := unix.Sendto(fd, s[:], unix.MSG_DONTWAIT, sockaddr(c.Local)); err != nil {
				return fmt.Errorf("ask after the one of %v: %w", c.Remote, err)
			}
		}
	}
	return nil
}

// strangeSize: an IP and a TCP header, and a byte, as a kernel answers strange
// segments without any only now and then.
const strangeSize = 20 + 20 + 1

// strange is a segment that belongs to no connection.
func strange(from, to netip.AddrPort, seq uint32) (b [strangeSize]byte) {
	ip, seg := b[:20], b[20:]
	ip[0] = 4<<4 | 5
	binary.BigEndian.PutUint16(ip[2:], strangeSize)
	ip[8], ip[9] = 64, unix.IPPROTO_TCP
	src, dst := from.Addr().As4(), to.Addr().As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(seg[0:], from.Port())
	binary.BigEndian.PutUint16(seg[2:], to.Port())
	binary.BigEndian.PutUint32(seg[4:], seq)
	seg[12] = 5 << 4 // words of the header
	seg[13] = 1 << 4 // ACK, of 0
	// The checksum is over addresses, protocol and length too.
	var sum [12 + 20 + 2]byte
	copy(sum[0:], src[:])
	copy(sum[4:], dst[:])
	sum[9], sum[11] = unix.IPPROTO_TCP, byte(len(seg))
	copy(sum[12:], seg)
	binary.BigEndian.PutUint16(seg[16:], checksum(sum[:]))
	return b
}
