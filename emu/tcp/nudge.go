package tcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Nudge has the peers of restored connections send again at once what they wait
// for an acknowledgement of. A peer that got no answer for a while waits for
// longer and longer until it tries again, and would be silent for about as long
// again as the VM was. But when it hears from the network that the host could
// not be reached (ICMP type 3, code 1), and that what could not be delivered is
// the very segment that it waits for, it takes one such wait back, and sends if
// it has waited for long enough by then (RFC 6069, TCP-LCD; Linux does, 2.6.32
// and later). A peer that waits for nothing ignores it. It is for right after
// Resend, from the namespace of the VM.
func Nudge(all []*Restored) error {
	if len(all) == 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return fmt.Errorf("nudge peers: %w", err)
	}
	defer unix.Close(fd)
	const most = 1024 / nudges // of one call (UIO_MAXIOV)
	var errs []error
	for len(all) > 0 {
		n := min(most, len(all))
		if err := nudge(fd, all[:n]); err != nil {
			errs = append(errs, fmt.Errorf("nudge peers: %w", err))
		}
		all = all[n:]
	}
	return errors.Join(errs...)
}

// nudges go to each peer: each takes one wait back, which halves the next.
const nudges = 4

// mmsghdr is the kernel's, of sendmmsg(2).
type mmsghdr struct {
	hdr  unix.Msghdr
	sent uint32
	_    [4]byte
}

// nudge sends with one call for all.
func nudge(fd int, all []*Restored) error {
	packets := make([][unreachableSize]byte, len(all))
	addrs := make([]unix.RawSockaddrInet4, len(all))
	parts := make([]unix.Iovec, len(all))
	msgs := make([]mmsghdr, 0, nudges*len(all))
	for i, r := range all {
		packets[i] = unreachable(r.Origin.Remote, r.Origin.Local, r.next)
		addrs[i] = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: r.Origin.Remote.Addr().As4()}
		parts[i].Base = &packets[i][0]
		parts[i].SetLen(unreachableSize)
		var m mmsghdr
		m.hdr.Name, m.hdr.Namelen = (*byte)(unsafe.Pointer(&addrs[i])), unix.SizeofSockaddrInet4
		m.hdr.Iov = &parts[i]
		m.hdr.SetIovlen(1)
		for range nudges {
			msgs = append(msgs, m)
		}
	}
	for at := 0; at < len(msgs); {
		n, err := call(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[at])), uintptr(len(msgs)-at), unix.MSG_DONTWAIT, 0, 0)
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}

// unreachableSize: ICMP header, and what could not be delivered: an IP header and
// the first eight bytes behind it (RFC 792).
const unreachableSize = 8 + 20 + 8

// unreachable says that a host could not be reached by a segment.
func unreachable(from, to netip.AddrPort, seq uint32) (b [unreachableSize]byte) {
	b[0], b[1] = 3, 1
	ip := b[8:28]
	ip[0] = 4<<4 | 5
	binary.BigEndian.PutUint16(ip[2:], 40) // an IP and a TCP header
	ip[8], ip[9] = 64, unix.IPPROTO_TCP
	src, dst := from.Addr().As4(), to.Addr().As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	binary.BigEndian.PutUint16(b[28:], from.Port())
	binary.BigEndian.PutUint16(b[30:], to.Port())
	binary.BigEndian.PutUint32(b[32:], seq)
	binary.BigEndian.PutUint16(b[2:], checksum(b[:]))
	return b
}

// checksum is that of RFC 1071 over an even number of bytes.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xFFFF {
		sum = sum>>16 + sum&0xFFFF
	}
	return ^uint16(sum)
}
