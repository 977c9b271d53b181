package scenarios

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/traffic"
)

// awaitAddress waits until a node may use an IPv6 address of its own, by the
// kernel's notifications.
func awaitAddress(ctx context.Context, enter traffic.Enter, node string, addr netip.Addr) error {
	news, done := make(chan netlink.AddrUpdate, 64), make(chan struct{})
	defer close(done)
	failed := make(chan error, 1)
	err := enter(node, func() error {
		return netlink.AddrSubscribeWithOptions(news, done, netlink.AddrSubscribeOptions{
			ListExisting: true,
			ErrorCallback: func(err error) {
				select {
				case failed <- err:
				default: // the first one counts
				}
			},
		})
	})
	if err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	state := "it has none"
	for {
		select {
		case a := <-news: // the zero one after a failure
			if got, ok := netip.AddrFromSlice(a.LinkAddress.IP); !ok || got != addr || !a.NewAddr {
				continue
			}
			switch {
			case a.Flags&unix.IFA_F_DADFAILED != 0:
				return fmt.Errorf("somebody else has it")
			case a.Flags&unix.IFA_F_TENTATIVE == 0:
				return nil
			}
			state = "it is still being looked for elsewhere"
		case err := <-failed:
			return fmt.Errorf("watch addresses: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", state, context.Cause(ctx))
		}
	}
}
