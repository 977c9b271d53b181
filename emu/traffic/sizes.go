package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SizeResult is one IP packet of a certain length.
type SizeResult struct {
	Length int // of the whole packet
	// Refused is why the sender's kernel did not take it (EMSGSIZE); nil: it
	// did.
	Refused error
	// Arrived: whole, at the other machine.
	Arrived bool
}

// Silent reports a packet that was taken and never came.
func (r SizeResult) Silent() bool { return r.Refused == nil && !r.Arrived }

const (
	udpHeader     = 8
	sizeDeadline  = 2 * time.Second // for the last packet that was taken
	smallestSize  = ipv4Len + udpHeader + sizeMarkLen
	sizeMarkLen   = 4
	largestPacket = 65535
)

// Sizes sends one UDP packet of each length from a machine to another and says
// what became of each. Unless they may be fragmented, they carry "don't
// fragment" (RFC 1191), so that a packet that is too large is either refused
// where it is made or lost on its way.
func (p *Prober) Sizes(ctx context.Context, f Flow, lengths []int, fragment bool) ([]SizeResult, error) {
	ends, err := p.pick([]string{f.From, f.To})
	if err != nil {
		return nil, err
	}
	results, err := p.sizes(ctx, ends[0], ends[1], lengths, fragment)
	if err != nil {
		return nil, fmt.Errorf("packet sizes %s -> %s (%s): %w", f.From, f.To, ends[1].Addr, err)
	}
	return results, nil
}

func (p *Prober) sizes(ctx context.Context, from, to *point, lengths []int, fragment bool) ([]SizeResult, error) {
	in, err := p.sizeSocket(ctx, to, netip.AddrPortFrom(to.Addr, 0), setSocketOptions)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	discover := unix.IP_PMTUDISC_DO
	if fragment {
		discover = unix.IP_PMTUDISC_DONT
	}
	out, err := p.sizeSocket(ctx, from, netip.AddrPortFrom(netip.IPv4Unspecified(), 0), func(fd int) error {
		return os.NewSyscallError("setsockopt IP_MTU_DISCOVER", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, discover))
	})
	if err != nil {
		return nil, err
	}
	defer out.Close()
	results := make([]SizeResult, len(lengths))
	due := 0
	for i, n := range lengths {
		if n < smallestSize || n > largestPacket {
			return nil, fmt.Errorf("no packet has %d bytes: expected %d to %d", n, smallestSize, largestPacket)
		}
		payload := make([]byte, n-ipv4Len-udpHeader)
		binary.BigEndian.PutUint32(payload, uint32(i))
		results[i].Length = n
		if _, err := out.WriteTo(payload, in.LocalAddr()); err != nil {
			results[i].Refused = err
			continue
		}
		due++
	}
	return results, arriveSizes(ctx, in, results, due)
}

// sizeSocket opens a UDP socket in a machine.
func (p *Prober) sizeSocket(ctx context.Context, at *point, local netip.AddrPort, set func(fd int) error) (c net.PacketConn, err error) {
	lc := net.ListenConfig{Control: onSocket(set)}
	err = p.enter(at.Name, func() (err error) { c, err = lc.ListenPacket(ctx, "udp4", local.String()); return err })
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", at.Name, err)
	}
	return c, nil
}

// arriveSizes notes what comes until all that is due has, or the deadline.
func arriveSizes(ctx context.Context, in net.PacketConn, results []SizeResult, due int) error {
	if err := in.SetReadDeadline(time.Now().Add(sizeDeadline)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = in.SetReadDeadline(time.Unix(1, 0)) }) // a socket that is closed reads no more either
	defer stop()
	buf := make([]byte, largestPacket)
	for due > 0 {
		n, _, err := in.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		}
		if n < sizeMarkLen {
			continue
		}
		i := int(binary.BigEndian.Uint32(buf))
		if i < len(results) && !results[i].Arrived && results[i].Length == n+ipv4Len+udpHeader {
			results[i].Arrived = true
			due--
		}
	}
	return nil
}

// TooLarge reports whether the sender's kernel said that the packet does not
// fit (EMSGSIZE).
func (r SizeResult) TooLarge() bool { return errors.Is(r.Refused, unix.EMSGSIZE) }

// Largest is the length of the largest packet that arrived, 0 where none did.
func Largest(results []SizeResult) (n int) {
	for _, r := range results {
		if r.Arrived {
			n = max(n, r.Length)
		}
	}
	return n
}
