package mpls

import (
	"net/netip"

	"github.com/vpclab/vpclab/emu/fabric"
)

// VPNRoute is the route of a VRF table to a prefix behind a remote PE: the
// LSP's label on top of that PE's VPN label (RFC 4364 section 5). lsp is 0
// where the egress is the neighbor: this router is then its own penultimate
// hop, and the VPN label travels alone.
//
// The stack is written out here because the kernel does not resolve a
// labelled next hop over another route: a VPN label via the remote loopback
// is refused as "Nexthop has invalid gateway".
func VPNRoute(table int, prefix netip.Prefix, lsp, vpn uint32, via netip.Addr, dev string) fabric.Route {
	r := fabric.Route{Table: table, Dst: prefix, Via: via, Dev: dev}
	if lsp == 0 {
		r.Labels[0] = vpn
	} else {
		r.Labels[0], r.Labels[1] = lsp, vpn
	}
	return r
}
