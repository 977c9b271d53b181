package rtnl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Watch subscribes the Conn to a notification group (rtnetlink(7),
// RTNLGRP_LINK and so on) for Await. From then on it is no good for anything
// else: notifications would crowd out answers.
//
// The kernel passes over sockets that have no address yet, as one has none
// before its first request.
func (c *Conn) Watch(group int) error {
	if err := c.bound(); err != nil {
		return fmt.Errorf("netlink socket: bind: %w", err)
	}
	if err := unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
		return fmt.Errorf("netlink socket: join group %d: %w", group, err)
	}
	return nil
}

// bound gives the socket an address, if it has none.
func (c *Conn) bound() error {
	at, err := unix.Getsockname(c.fd)
	if err != nil {
		return err
	}
	if a, ok := at.(*unix.SockaddrNetlink); ok && a.Pid != 0 {
		return nil
	}
	return unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// patience is how long one wait in the kernel lasts before the context is
// looked at again.
const patience = 50 * time.Millisecond

// Await reads notifications about interfaces until one pleases, or ctx ends.
func (c *Conn) Await(ctx context.Context, pleases func(typ uint16, link LinkInfo) bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for found := false; !found; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(patience.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for netlink notifications: %w", err)
		}
		if n != 1 {
			continue
		}
		err = c.receive(func(_ uint32, typ, _ uint16, payload []byte) {
			if link, ok := parseLink(payload); ok && (typ == unix.RTM_NEWLINK || typ == unix.RTM_DELLINK) {
				found = found || pleases(typ, link)
			}
		})
		if err != nil {
			return fmt.Errorf("read netlink notifications: %w", err)
		}
	}
	return nil
}
